"""Renders the OpenAPI document and the errors as pages without scripts or other files."""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from service.domain.errors import ServiceError

STYLE = files("service.http.document").joinpath("document.css").read_text()

POLICY = (
    "default-src 'none';"
    f" style-src 'sha256-{b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Allows the pages' own style only: no script, no form, no frame, and nothing from elsewhere."""


def api_page(document: Mapping[str, Any]) -> str:
    """Return the OpenAPI document as a page."""
    sections: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            entry = {"path": path, "method": method, **operation}
            sections[operation["tags"][0]].append(entry)
    return _render("api.html", document=document, sections=sections)


def problem_page(error: type[ServiceError], example: Mapping[str, Any]) -> str:
    """Return the page that explains an error, with an example of its problem document."""
    return _render("problem.html", error=error, example=json.dumps(example, indent=2))


def _render(template: str, **values: Any) -> str:
    return _environment.get_template(template).render(values)


def _prose(text: str) -> Markup:
    """Return a text as HTML: backticks mark code, and an empty line becomes a line break."""
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(html.replace("\n\n", "<br>"))  # noqa: S704 - the text was escaped above


def _last_segment(reference: str) -> str:
    return reference.rsplit("/", 1)[-1]


_environment = Environment(
    loader=PackageLoader("service.http", "document"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals["style"] = Markup(STYLE)  # noqa: S704 - our own file
_environment.filters["prose"] = _prose
_environment.filters["last_segment"] = _last_segment
