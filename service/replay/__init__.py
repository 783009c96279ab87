"""`holdfast replay`: real orders, sent twice to a running service."""
