"""Outages, such as an unreachable database: logged when they begin and when they end."""

import time

import structlog

log = structlog.get_logger()


class Outage:
    """The outage of one thing, whose events in the log are `<name>_lost` and `<name>_regained`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._began_at: float | None = None

    def begin(self, error: object) -> None:
        """Note a failure; only the first of an outage is logged."""
        if self._began_at is None:
            self._began_at = time.monotonic()
            log.warning(f"{self.name}_lost", error=str(error))

    def end(self) -> None:
        """Note a success; it is logged if it ends an outage."""
        if self._began_at is not None:
            seconds = round(time.monotonic() - self._began_at, 1)
            self._began_at = None
            log.info(f"{self.name}_regained", after_seconds=seconds)
