"""Limits for one caller, so that all others are served: rate, memory, and a log of refusals."""
