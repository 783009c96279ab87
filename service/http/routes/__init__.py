"""The operations and the pages, one module for each resource."""
