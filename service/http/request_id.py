"""The id of a request: its own, if it has a usable one, else a new one.

It is in the header `X-Request-Id` of every answer, in problem documents and in log lines.
"""

import os
import re
import secrets
from collections.abc import Iterable
from itertools import count

REQUEST_ID = b"x-request-id"
_FORM = re.compile(rb"[A-Za-z0-9._~:/@+=-]{1,128}")


class _Counter:
    """Numbers the requests of this process after a random prefix, so that no id comes twice."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Take a new prefix: a worker is a copy of the supervisor and must not share it."""
        self.form = secrets.token_hex(8).encode() + b"-%010x"  # always of the same length
        self.numbers = count()


_counter = _Counter()
os.register_at_fork(after_in_child=_counter.begin)


def new_request_id() -> bytes:
    """Return an id that no other request has."""
    return _counter.form % next(_counter.numbers)


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id of a request with these headers; two lines of X-Request-Id are no id."""
    sent = [value for name, value in headers if name == REQUEST_ID]
    return sent[0] if len(sent) == 1 and _FORM.fullmatch(sent[0]) else new_request_id()
