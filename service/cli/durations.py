"""Durations on the command line: a number with a unit, as in 90d, 12h or 30m."""

import re
from datetime import timedelta
from typing import Any

import click

UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
"""The seconds of each unit."""

DURATION_MAX = timedelta(days=36_500)
"""A century: longer durations are slips of the keyboard."""


class Duration(click.ParamType[timedelta]):
    """The type of an option whose value is a duration, from 0 up to a maximum."""

    name = "duration"

    def __init__(self, most: timedelta = DURATION_MAX) -> None:
        self.most = most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Return the duration that a text names; fail with the reason why it names none."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([0-9]{1,10})([dhms])", value)
        if found is None:
            self.fail(f"{value!r} is not a duration: write 90d, 12h, 30m or 45s", param, ctx)
        seconds = int(found[1]) * UNITS[found[2]]
        if seconds > self.most.total_seconds():
            days = self.most.days
            self.fail(f"{value} is longer than the {days} days that are allowed", param, ctx)
        return timedelta(seconds=seconds)
