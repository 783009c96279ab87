"""One module per resource: bytes → command, verdict → bytes."""
