"""Failures that are really caused, and what must hold afterwards: see docs/reliability.md."""
