"""All errors that clients see: the code of each, its status, and whether and how to retry.

A `ServiceError` is first of all a value: rules return refusals, and routes raise one only where
they have nothing else to return. Its docstring is the title of its problem document (RFC 9457) and
of its page under /problems.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

ERRORS_MAX = 100
"""The most wrong values that one answer names; more would cost the service and help no client."""

DETAILED_MAX = 3
"""The most wrong values that `detail` repeats as sentences."""


class ServiceError(Exception):
    """The request could not be carried out."""

    code: ClassVar[str]
    status: ClassVar[int]
    retryable: ClassVar[bool] = False
    same_seq: ClassVar[bool] = True
    advice: ClassVar[str] = ""
    owner: str | None = None
    """The source of the reservation that a step of an admin has named. It is never sent."""
    retry_after_seconds: int | None = None
    """The wait before the same request may succeed; every retryable error has one."""

    def __init__(
        self,
        detail: str,
        *,
        replayed: bool = False,
        retry_after_seconds: int | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.replayed = replayed
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds
        self.fields: Mapping[str, Any] = fields

    def as_value(self) -> Self:
        """Return the error without the frames that it was raised through.

        An error that is kept also keeps the values of its frames, such as large bodies. If one of
        the values refers to the error, only the garbage collector frees them, and it runs seldom.
        """
        return self.with_traceback(None)

    @classmethod
    def title(cls) -> str:
        """The first line of the docstring, without its full stop."""
        return (cls.__doc__ or "").splitlines()[0].removesuffix(".")


class InvalidRequest(ServiceError):
    """The request is malformed."""

    code = "invalid_request"
    status = 400
    advice = (
        "Correct the values that `errors` names: each entry has the path of a value and a message."
        " With `truncated` there may be more."
    )

    @classmethod
    def at(cls, path: str, message: str) -> "InvalidRequest":
        """Return the error about one value."""
        return cls.of([{"path": path, "message": message}])

    @classmethod
    def of(
        cls, errors: Sequence[Mapping[str, str]], *, truncated: bool = False
    ) -> "InvalidRequest":
        """Return the error about several values; `truncated` if there may be more."""
        told = [sentence(error) for error in errors[:DETAILED_MAX]]
        if len(errors) > DETAILED_MAX:
            told.append("See errors for more.")
        more = {"truncated": True} if truncated else {}
        return cls(" ".join(told), errors=list(errors), **more)


class Unauthenticated(ServiceError):
    """No valid credential was sent."""

    code = "unauthenticated"
    status = 401
    advice = (
        "Send `Authorization: Bearer <key>` with a key that exists, was not revoked and has not"
        " expired, or with a valid token: `detail` names its fault."
    )


class Forbidden(ServiceError):
    """The credential does not allow this."""

    code = "forbidden"
    status = 403
    advice = "Use a key with the scope that `detail` names; a body's `source` must be the key's."


class NotFound(ServiceError):
    """Nothing is stored here."""

    code = "not_found"
    status = 404
    advice = "Nothing is stored under this address, or it belongs to another source."


class UnknownSku(ServiceError):
    """A SKU is not stocked at that location."""

    code = "unknown_sku"
    status = 404
    advice = "`unknown` lists each SKU and location without a stock row. Nothing was remembered."

    @classmethod
    def of(cls, keys: Sequence[tuple[str, str]]) -> "UnknownSku":
        """Return the error about the stock rows (sku, location) that do not exist."""
        (sku, location), others = keys[0], len(keys) - 1
        more = f", nor are {others} others" if others else ""
        return cls(
            f"{sku} is not stocked at {location}{more}.",
            unknown=[{"sku": key[0], "location": key[1]} for key in keys],
        )


class MethodNotAllowed(ServiceError):
    """The resource does not support this method."""

    code = "method_not_allowed"
    status = 405
    advice = "The `Allow` header lists the methods that work here."


class NotAcceptable(ServiceError):
    """No representation is acceptable."""

    code = "not_acceptable"
    status = 406
    advice = "Accept `application/json` and `application/problem+json`."


class RequestTimeout(ServiceError):
    """The request did not arrive in time."""

    code = "request_timeout"
    status = 408
    retryable = True
    retry_after_seconds = 1
    advice = (
        "The head of a request may take 10 seconds and its body 30. Nothing was written. Send the"
        " same request again on a new connection."
    )


class TooLarge(ServiceError):
    """The body is too large."""

    code = "too_large"
    status = 413
    advice = "A body may have 1 MiB, that of a batch or an import 4 MiB. Split the request."


class UriTooLong(ServiceError):
    """The URL is too long."""

    code = "uri_too_long"
    status = 414
    advice = "A URL may have 8 KiB, including its query."


class UnsupportedMediaType(ServiceError):
    """The body's media type is not supported."""

    code = "unsupported_media_type"
    status = 415
    advice = "Send `Content-Type: application/json` in UTF-8 (`text/csv` for imports), unencoded."


class InsufficientStock(ServiceError):
    """There is not enough stock.

    For a reservation the refusal is remembered: the same seq always gets the same answer.
    """

    code = "insufficient_stock"
    status = 409
    same_seq = False
    advice = (
        "`shortages` lists every line that asks for more than is available. A refused reservation"
        " stays refused: use a new seq to try again. A refused adjustment is not remembered"
        " (`same_seq` is true)."
    )


class AdjustmentBelowZero(InsufficientStock):
    """There is not enough stock."""

    same_seq = True


class IllegalTransition(ServiceError):
    """The present state does not allow this."""

    code = "illegal_transition"
    status = 409
    advice = "`state` is the present state; `allowed` lists the steps that can be taken from it."


class IllegalKeyTransition(IllegalTransition):
    """The present state does not allow this."""


class ExceedsRefundable(ServiceError):
    """The request refunds more units than are left."""

    code = "exceeds_refundable"
    status = 409
    advice = "`refundable` lists the units that can still be refunded: refund those or fewer."


class StockInUse(ServiceError):
    """Open holds have units of this stock."""

    code = "stock_in_use"
    status = 409
    advice = "Confirm or cancel the open holds, or wait for them to expire; then delete again."


class LastAdminKey(ServiceError):
    """The key is the last admin key that does not expire."""

    code = "last_admin_key"
    status = 409
    advice = "Create another admin key that does not expire, then revoke this one."


class VersionMismatch(ServiceError):
    """The version is not the current one."""

    code = "version_mismatch"
    status = 412
    advice = "`current` is the current version (null: no row). Read the row, then decide again."


class PreconditionRequired(ServiceError):
    """A precondition is required."""

    code = "precondition_required"
    status = 428
    advice = 'Send `If-None-Match: *` to create, or `If-Match: "<version>"` to replace.'


class IdempotencyMismatch(ServiceError):
    """The identity was used for another request."""

    code = "idempotency_mismatch"
    status = 422
    same_seq = False
    advice = (
        "`field` differs: `stored` is the value of the first request, `sent` that of this one."
        " A new request needs a new seq."
    )

    @classmethod
    def of(cls, field: str, stored: Any, sent: Any) -> "IdempotencyMismatch":
        """Return the error about a known identity whose content differs in `field`."""
        return cls(
            f"The first request with this identity differs in {field}.",
            field=field,
            stored=stored,
            sent=sent,
        )


class ExceedsHeld(ServiceError):
    """The request confirms more units than are held."""

    code = "exceeds_held"
    status = 422
    advice = "`held` lists the units that the reservation holds: confirm those or fewer."


class HeadersTooLarge(ServiceError):
    """The request's headers are too large."""

    code = "headers_too_large"
    status = 431
    advice = "A request may have 100 header lines, 32 KiB in all. Look for a cookie that grows."


class RateLimited(ServiceError):
    """The caller's own limit is reached."""

    code = "rate_limited"
    status = 429
    retryable = True
    retry_after_seconds = 1
    advice = "After `Retry-After` seconds send the same request again."


class QuotaExceeded(ServiceError):
    """The source's quota of open holds is used up."""

    code = "quota_exceeded"
    status = 429
    retryable = True
    retry_after_seconds = 1
    advice = (
        "`limit` is the limit that would be exceeded: `max` is its value, `used` is in use, and the"
        " request asked for `asked`. Nothing was remembered. Confirm or cancel open holds, or wait"
        " for them to expire, then send the same request again."
    )


class Contention(ServiceError):
    """The request lost too many races for the same stock."""

    code = "contention"
    status = 503
    retryable = True
    retry_after_seconds = 1
    advice = "Nothing was written after `attempts` attempts. Send the same request again."


class Overloaded(ServiceError):
    """The service has more work than it can accept."""

    code = "overloaded"
    status = 503
    retryable = True
    retry_after_seconds = 1
    advice = "Nothing was written. After `Retry-After` seconds send the same request again."


class Unavailable(ServiceError):
    """The service is temporarily unavailable."""

    code = "unavailable"
    status = 503
    retryable = True
    retry_after_seconds = 1
    advice = (
        "Nothing was written, except the rows of an import or the limits that `detail` names. After"
        " `Retry-After` seconds send the same request again."
    )


class OutcomeUnknown(ServiceError):
    """The outcome is not known."""

    code = "outcome_unknown"
    status = 503
    retryable = True
    retry_after_seconds = 2
    advice = "Send the same request with the same seq again: it takes effect once in any case."


class InternalError(ServiceError):
    """The service failed."""

    code = "internal_error"
    status = 500
    retryable = True
    retry_after_seconds = 5
    advice = "This is a bug in the service. Nothing was written, and the log has the details."


def sentence(error: Mapping[str, str], label: str | None = None) -> str:
    """Return an entry of `errors` as a sentence about its path, or after a label for that."""
    subject = label or error["path"]
    colon = ":" if label or subject.startswith("line ") else ""
    end = "" if error["message"].endswith("?") else "."
    return f"{subject}{colon} {error['message']}{end}"


def all_errors() -> list[type[ServiceError]]:
    """Return every error there is, one for each code, in order of status."""
    errors = {error.code: error for error in ServiceError.__subclasses__()}
    return sorted(errors.values(), key=lambda error: (error.status, error.code))
