"""Troubles that last, such as a database that is unreachable: logged when they begin and end."""

import time

import structlog

log = structlog.get_logger()


class Episode:
    """A trouble that begins and ends; what it is called stands before `_lost` and `_regained`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._began_at: float | None = None

    def begin(self, error: object) -> None:
        """Note the trouble; only its beginning is logged."""
        if self._began_at is None:
            self._began_at = time.monotonic()
            log.warning(f"{self.name}_lost", error=str(error))

    def end(self) -> None:
        """Note that all is well; logged if there was trouble."""
        if self._began_at is not None:
            seconds = round(time.monotonic() - self._began_at, 1)
            self._began_at = None
            log.info(f"{self.name}_regained", after_seconds=seconds)
