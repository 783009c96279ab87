"""The PostgreSQL that comes with Holdfast: its binaries, its cluster and its process."""
