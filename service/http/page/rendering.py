"""Renders values as pages: templates that escape them, and headers that restrict the page."""

import hashlib
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from service.domain.errors import ServiceError, Unauthenticated
from service.http.responses import HTML, NO_REFERRER, Header, Response

POLICY = (
    b"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    b" base-uri 'none'; frame-ancestors 'none'"
)
"""Allows forms to this host only, and no script, no frame and nothing from other hosts."""

HEADERS: tuple[Header, ...] = (
    HTML,
    (b"content-security-policy", POLICY),
    NO_REFERRER,
    (b"cross-origin-opener-policy", b"same-origin"),
)

ASSETS = {
    name: (media_type, files("service.http.page").joinpath(name).read_bytes())
    for name, media_type in (
        ("page.css", b"text/css; charset=utf-8"),
        ("icon.svg", b"image/svg+xml"),
    )
}
"""Each asset's media type and bytes."""


def page(template: str, status: int, *headers: Header, **values: Any) -> Response:
    """Return a page."""
    html = _environment.get_template(template).render(values)
    return Response(status, [*HEADERS, *headers], html.encode(), is_secret=True)


def error_page(
    error: ServiceError, request_id: str, *headers: Header, may_sign_in: bool
) -> Response:
    """Return an error as a page. A visitor without a session gets the sign-in page.

    With `may_sign_in` the browser is redirected to that page. Without it, as after a form was sent,
    the answer is that page with the error. A 404 does not show the id of the request, since a
    resource of another source must look exactly like none.
    """
    if isinstance(error, Unauthenticated):
        if may_sign_in:
            return see_other("/sign-in")
        challenge = (b"www-authenticate", b"Bearer")
        return page("sign_in.html", error.status, challenge, error=error)
    wait = error.retry_after_seconds
    more = [*headers] if wait is None else [*headers, (b"retry-after", b"%d" % wait)]
    return page("error.html", error.status, *more, error=error, request_id=request_id)


def asset(name: str) -> Response | None:
    """Return a file that the pages use; its address changes with its content."""
    if name not in ASSETS:
        return None
    media_type, content = ASSETS[name]
    headers = [
        (b"content-type", media_type),
        (b"cache-control", b"public, max-age=31536000, immutable"),
    ]
    return Response(200, headers, content)


def see_other(path: str, *headers: Header) -> Response:
    """Redirect the browser to a page, so that a reload does not send the form again."""
    return Response(303, [(b"location", path.encode()), *headers], b"", is_secret=True)


def _asset_path(name: str) -> str:
    return f"/assets/{name}?v={hashlib.sha256(ASSETS[name][1]).hexdigest()[:12]}"


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"


_environment = Environment(
    loader=PackageLoader("service.http", "page"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals["asset"] = _asset_path
_environment.filters["moment"] = _moment
