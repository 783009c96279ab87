"""Converts bytes to checked values (JSON, names, headers, CSV), or names the errors in them."""
