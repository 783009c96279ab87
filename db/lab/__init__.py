"""Temporary databases for experiments, and a session that watches their services."""
