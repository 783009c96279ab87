"""Checks single names: in paths, queries, headers, files and on the command line."""

import re

from pydantic import TypeAdapter, ValidationError

from service.domain.errors import InvalidRequest
from service.input.bodies import Name, PathName
from service.input.messages import message_of

UUID_FORM = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")

_name = TypeAdapter(Name)
_path_name = TypeAdapter(PathName)


def name_at(path: str, value: str) -> str:
    """Return a valid source, seq or job name. Raises `InvalidRequest` with the path."""
    return _checked(_name, path, value)


def path_name_at(path: str, value: str) -> str:
    """Return a valid SKU or location. Raises `InvalidRequest` with the path."""
    return _checked(_path_name, path, value)


def _checked(kind: TypeAdapter[str], path: str, value: str) -> str:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest.at(path, message_of(error)) from None
