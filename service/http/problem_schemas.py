"""The schemas of problem documents (RFC 9457), one for each error, and of a batch's results."""

from typing import Any, ClassVar, Literal, cast
from uuid import UUID

from pydantic import Field, create_model

from db.vocabulary import KeyState, State
from service.domain import errors
from service.domain.errors import ERRORS_MAX, ServiceError
from service.http.schemas import (
    Answer,
    Integer,
    InvalidValueAnswer,
    ReservationAnswer,
    ShortageAnswer,
    StockKeyAnswer,
    UnitsAnswer,
)


class ProblemAnswer(Answer):
    """Any problem document: the members that all have. Decide by `code`."""

    type: str = Field(description="The address of a page that explains the code.")
    title: str = Field(description="The meaning of the code, for people.")
    status: int
    detail: str = Field(description="The problem of this request, for people.")
    instance: str = Field(description="The path of the request.")
    request_id: str = Field(
        description="The id of the request, as in the header X-Request-Id and in the service's log."
    )
    code: str
    retryable: bool = Field(description="True if the same request may succeed later as it is.")
    same_seq: bool = Field(
        description="True if the next attempt may use the same seq; otherwise it needs a new one."
    )


class _InvalidRequest(ProblemAnswer):
    example: ClassVar[Any] = {"errors": [{"path": "lines[0].quantity", "message": "is missing"}]}

    errors: list[InvalidValueAnswer] = Field(min_length=1, max_length=ERRORS_MAX)
    truncated: bool = Field(
        False, description="True if there may be more invalid values than `errors` has."
    )


class _UnknownSku(ProblemAnswer):
    example: ClassVar[Any] = {"unknown": [{"sku": "85123A", "location": "main"}]}

    unknown: list[StockKeyAnswer]


class _InsufficientStock(ProblemAnswer):
    example: ClassVar[Any] = {
        "reservation_id": "8b1c7f9e-2f64-5a52-9d3b-6a4f6f1e7c11",
        "shortages": [{"sku": "85123A", "location": "main", "requested": 2, "available": 1}],
    }

    shortages: list[ShortageAnswer] = Field(description="Every line that is short.")
    reservation_id: UUID = Field(description="The reservation, which is stored as `rejected`.")


class _AdjustmentBelowZero(ProblemAnswer):
    example: ClassVar[Any] = {
        "shortages": [{"sku": "85123A", "location": "main", "requested": 3, "available": 1}],
    }

    shortages: list[ShortageAnswer]


class _IllegalTransition(ProblemAnswer):
    example: ClassVar[Any] = {"state": "cancelled", "allowed": []}

    state: State = Field(description="The reservation's present state.")
    allowed: list[Literal["confirm", "cancel", "extend", "refund"]] = Field(
        description="The transitions that are possible from there."
    )


class _IllegalKeyTransition(ProblemAnswer):
    example: ClassVar[Any] = {"state": "revoked", "allowed": []}

    state: KeyState = Field(description="The key's present state.")
    allowed: list[Literal["rotate"]] = Field(
        description="The transitions that are possible from there."
    )


class _ExceedsRefundable(ProblemAnswer):
    example: ClassVar[Any] = {
        "refundable": [{"sku": "85123A", "location": "main", "quantity": 1}],
    }

    refundable: list[UnitsAnswer] = Field(description="The units that are left.")


class _ExceedsHeld(ProblemAnswer):
    example: ClassVar[Any] = {"held": [{"sku": "85123A", "location": "main", "quantity": 2}]}

    held: list[UnitsAnswer] = Field(description="The units that the reservation holds.")


class _VersionMismatch(ProblemAnswer):
    example: ClassVar[Any] = {"current": 4}

    current: Integer | None = Field(description="The present version; null if there is no row.")


class _IdempotencyMismatch(ProblemAnswer):
    example: ClassVar[Any] = {"field": "hold_seconds", "stored": 900, "sent": 600}

    field: str = Field(description="The first member that differs.")
    stored: Any = Field(description="Its value in the first request.")
    sent: Any = Field(description="Its value in this request.")


class _Contention(ProblemAnswer):
    example: ClassVar[Any] = {"attempts": 8}

    attempts: int = Field(description="The number of attempts that lost their race.")


class _QuotaExceeded(ProblemAnswer):
    example: ClassVar[Any] = {"limit": "open_holds_max", "max": 20, "used": 20, "asked": 1}

    limit: Literal["open_holds_max", "held_units_max"] = Field(
        description="The limit that would be exceeded."
    )
    max: Integer = Field(description="The value of the limit.")
    used: Integer = Field(description="The open holds, or their units, at present.")
    asked: Integer = Field(description="The holds, or units, that the request asks for.")


MEMBERS: dict[type[ServiceError], type[ProblemAnswer]] = {
    errors.InvalidRequest: _InvalidRequest,
    errors.UnknownSku: _UnknownSku,
    errors.InsufficientStock: _InsufficientStock,
    errors.AdjustmentBelowZero: _AdjustmentBelowZero,
    errors.IllegalTransition: _IllegalTransition,
    errors.IllegalKeyTransition: _IllegalKeyTransition,
    errors.ExceedsRefundable: _ExceedsRefundable,
    errors.ExceedsHeld: _ExceedsHeld,
    errors.VersionMismatch: _VersionMismatch,
    errors.QuotaExceeded: _QuotaExceeded,
    errors.IdempotencyMismatch: _IdempotencyMismatch,
    errors.Contention: _Contention,
}
"""The errors whose problem documents have members of their own."""


RETRY_AFTER = "The seconds to wait before the same request is sent again, as in `Retry-After`."


def _model(error: type[ServiceError]) -> type[ProblemAnswer]:
    """The model of an error's problem documents, in which `code` and the flags are constants."""
    kinds = {"status": int, "code": str, "retryable": bool, "same_seq": bool}
    constants: Any = {
        name: (kind, Field(json_schema_extra={"const": getattr(error, name)}))
        for name, kind in kinds.items()
    }
    if error.retryable:
        constants["retry_after"] = (int, Field(ge=1, description=RETRY_AFTER))
    base = MEMBERS.get(error, ProblemAnswer)
    name, text = f"{error.__name__}Problem", f"{error.title()}."
    model = create_model(name, __base__=base, __doc__=text, **constants)
    return cast("type[ProblemAnswer]", model)


PROBLEMS: dict[type[ServiceError], type[ProblemAnswer]] = {
    error: _model(error)
    for error in [*errors.all_errors(), errors.AdjustmentBelowZero, errors.IllegalKeyTransition]
}
"""The model of each error's problem documents."""


def problem_example(error: type[ServiceError]) -> dict[str, Any]:
    """Return a problem document of an error."""
    retry_after = {"retry_after": error.retry_after_seconds} if error.retryable else {}
    return {
        "type": f"/problems/{error.code.replace('_', '-')}",
        "title": error.title(),
        "status": error.status,
        "detail": f"{error.title()}.",
        "instance": "/v1/reservations",
        "request_id": "b7ad6b7169203331-000000002a",
        "code": error.code,
        "retryable": error.retryable,
        "same_seq": error.same_seq,
        **retry_after,
        **(PROBLEMS[error].example or {}),
    }


class BatchReservationAnswer(Answer):
    """The result of an entry that made a reservation, or had made it before."""

    status: int = Field(description="The status that the entry would get alone.")
    replayed: bool = Field(description="True if this is the answer of an earlier request.")
    reservation: ReservationAnswer


class BatchProblemAnswer(Answer):
    """The result of an entry that was refused."""

    status: int = Field(description="The status that the entry would get alone.")
    replayed: bool = Field(description="True if this is the answer of an earlier request.")
    problem: ProblemAnswer


class BatchResultsAnswer(Answer):
    """The results of a batch's entries, in their order."""

    example: ClassVar[Any] = {
        "results": [
            {"status": 201, "replayed": False, "reservation": ReservationAnswer.example},
            {
                "status": 409,
                "replayed": False,
                "problem": problem_example(errors.InsufficientStock),
            },
        ]
    }

    results: list[BatchReservationAnswer | BatchProblemAnswer]
