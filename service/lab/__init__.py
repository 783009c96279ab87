"""The conflict lab: contention experiments on a throw-away database, in services without HTTP."""
