"""Databases to throw away, and a session that watches services at work, for experiments."""
