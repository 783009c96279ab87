"""Limits on the rate and the memory of one caller, which protect all others."""
