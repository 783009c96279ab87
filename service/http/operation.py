"""What a route promises, in the form the OpenAPI document is made from."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from service.domain.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or header: its JSON schema and what it does."""

    name: str
    schema: dict[str, Any]
    description: str
    place: str = "query"
    required: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True)
class Success:
    """A good answer: its status, when it is given, its model (None: no body) and headers."""

    status: int
    description: str
    model: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()
    is_list: bool = False
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Documentation:
    """Everything about an operation that its path and method do not say."""

    summary: str
    answers: tuple[Success, ...]
    scope: str | None = None
    body: type[BaseModel] | None = None
    body_required: bool = True
    body_media_type: str = "application/json"
    body_example: Any = None
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[type[ServiceError], ...] = ()


def documented(summary: str, *answers: Success, **details: Any) -> dict[str, Any]:
    """Return a route handler's `opt` that carries its documentation."""
    return {"documentation": Documentation(summary, answers, **details)}
