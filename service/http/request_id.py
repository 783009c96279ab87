"""The id of a request: its own, if it has a usable one, else a new one.

It is in the header `X-Request-Id` of every answer, in problem documents and in log lines.
"""

import os
import re
from collections.abc import Iterable

REQUEST_ID = b"x-request-id"
_FORM = re.compile(rb"[A-Za-z0-9._~:/@+=-]{1,128}")


def new_request_id() -> bytes:
    """Return an id that no other request has, and that tells nothing about other requests.

    A counter would show each caller how many requests all others send.
    """
    return os.urandom(12).hex().encode()


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the id of a request with these headers; two lines of X-Request-Id are no id."""
    sent = [value for name, value in headers if name == REQUEST_ID]
    return sent[0] if len(sent) == 1 and _FORM.fullmatch(sent[0]) else new_request_id()
