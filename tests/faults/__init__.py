"""Tests that cause real failures and check the promises afterwards: see docs/reliability.md."""
