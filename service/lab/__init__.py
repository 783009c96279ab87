"""The conflict lab: contention experiments in a temporary database, in services without HTTP."""
