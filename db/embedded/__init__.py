"""The private PostgreSQL: its binaries, its cluster, its roles and its process."""
