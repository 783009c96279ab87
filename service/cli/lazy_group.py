"""A group of commands that imports each command's module only when it is needed."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands are named as `module:function` and imported on demand.

    So `holdfast serve` starts without the modules of the other commands.
    """

    def __init__(self, *, commands_by_name: Mapping[str, str], **group: Any) -> None:
        super().__init__(**group)
        self._commands_by_name = commands_by_name

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the names in the order in which they were given."""
        return list(self._commands_by_name)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Import and return a command; None when there is no command of that name."""
        if name not in self._commands_by_name:
            return None
        module, _, function = self._commands_by_name[name].partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command
