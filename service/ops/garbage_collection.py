"""The setting of Python's garbage collector in a worker."""

import gc

NEW_OBJECTS_MAX = 10_000  # between two collections: most new objects belong to requests under way


def relax_garbage_collection() -> None:
    """Exclude start-up objects from collection and collect less often (docs/decisions.md, 20)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS_MAX)
