"""Sessions of the operator's page, and the one-time tokens of their forms.

The database stores only the digest of a session's secret, and nothing of a token: a token is
signed with that secret, and the seq of its effect is derived from it. The seq is a unique key, so
making the effect consumes the token in the same transaction, and a form that is sent again shows
the first result.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from db.queries import page_sessions
from db.session.database import Transaction
from db.vocabulary import Scope
from service.domain.commands import Caller
from service.domain.errors import Forbidden, Unauthenticated
from service.http.access.credential import Credential
from service.http.admission import admit, refusal_without_key
from service.http.call import Call
from service.http.responses import Header
from service.input.headers import cookie

SESSION_LIFETIME = timedelta(hours=10)  # a working day
TOKEN_LIFETIME = timedelta(hours=2)  # a form that was left open over lunch still works
SEQ_PREFIX = "page-"
FORM_REFUSED = (
    "This form can't be used: it has expired, belongs to another session, or did not come from"
    " this page. Open the page again."
)
SAME_SITE = (b"same-origin", b"none")


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is signed in with a key; it has the key's source and scopes."""

    secret: str
    caller: Caller
    scopes: frozenset[str]

    def allows(self, scope: str) -> bool:
        """True when the key has that scope, or all of them."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def require(self, scope: str) -> None:
        """Raise `Forbidden` when the key lacks the scope."""
        if not self.allows(scope):
            raise Forbidden(f"This needs a key with the scope {scope}.")

    def issue_token(self, *actions: str) -> str:
        """Return a new token, which each of these actions accepts once.

        It contains the time of issue and the actions, signed with the session's secret. Nothing is
        stored.
        """
        content = f"{int(time.time()):x}.{secrets.token_urlsafe(16)}.{'+'.join(actions)}"
        return f"{content}.{self._sign(content)}"

    def read_token(self, action: str, token: str) -> "FormToken":
        """Return the content of a form's token. Raises `Forbidden` unless it is this session's."""
        content, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(content).encode()):
            raise Forbidden(FORM_REFUSED)
        made_at, _, actions = content.split(".")
        if action not in actions.split("+"):
            raise Forbidden(FORM_REFUSED)
        digest = hashlib.sha256(f"{self.secret} {action} {token}".encode()).hexdigest()
        is_expired = int(made_at, 16) + TOKEN_LIFETIME.total_seconds() < time.time()
        return FormToken(f"{SEQ_PREFIX}{digest}", is_expired=is_expired)

    def _sign(self, content: str) -> str:
        return hmac.new(self.secret.encode(), content.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class FormToken:
    """A one-time token that was read: the seq of the only effect that it can have."""

    seq: str
    is_expired: bool


async def session_of(call: Call[Any]) -> Session:
    """Return the request's session. Raises `Unauthenticated` and `RateLimited`.

    There is no session if the cookie is missing, or if the session or its key has ended. It is
    looked up each time, so that a key that is revoked or expires stops working at once. The look-up
    counts as a request of the key's source.
    """
    sent = call.header(b"cookie") or b""
    found = cookie(sent, _cookie_name(call).encode())
    if found is None:
        raise Unauthenticated("You are not signed in.")
    secret = found.decode()
    row = await call.worker.authentication.page_sessions.find(_digest(secret))
    if row is None:
        refusal = Unauthenticated("Your session has expired. Sign in again.")
        raise refusal_without_key(call, refusal)
    await call.worker.authentication.keys.last_uses.note(row)
    caller = Caller(row.source, every_source=Scope.ADMIN in row.scopes)
    scopes = frozenset(row.scopes)
    call.credential = Credential(row.id, caller, scopes, looked_up_at=time.monotonic())
    await admit(call, row.source, row.requests_per_second)
    return Session(secret, caller, scopes)


async def sign_in(call: Call[Any], key: str) -> Header:
    """Begin a session and return the header that sets its cookie.

    Raises `Unauthenticated`, and `RateLimited`, since it counts as a request of the key's source. A
    wrong key counts as a request without a valid key.
    """
    worker, secret = call.worker, secrets.token_urlsafe(32)
    credential = await worker.authentication.keys.find(key.encode())
    if credential is None:
        refusal = Unauthenticated("This key does not exist, was revoked or has expired.")
        raise refusal_without_key(call, refusal)
    await admit(call, credential.caller.source, credential.requests_per_second)

    async def work(transaction: Transaction) -> None:
        await page_sessions.create_session(
            transaction.connection, _digest(secret), credential.id, SESSION_LIFETIME
        )

    await worker.database.transact(work)
    return _cookie(call, secret)


async def sign_out(call: Call[Any], session: Session, token: str) -> Header:
    """End the session and return the header that deletes its cookie. Raises `Forbidden`."""
    if session.read_token("sign-out", token).is_expired:
        raise Forbidden(FORM_REFUSED)

    async def work(transaction: Transaction) -> None:
        await page_sessions.end_session(transaction.connection, _digest(session.secret))

    await call.worker.database.transact(work)
    return _cookie(call, "", "; Max-Age=0")


def check_same_site(call: Call[Any]) -> None:
    """Raise `Forbidden` when a page of another site made the browser send this request.

    Browsers tell the site in Sec-Fetch-Site, or in Origin where they omit that (plain HTTP). A
    client that sends neither is not a browser and has no cookies that another site could use.
    """
    site = call.header(b"sec-fetch-site")
    origin = call.header(b"origin")
    if site is not None:
        is_ours = site in SAME_SITE
    else:
        is_ours = origin is None or is_own_origin(
            origin, call.header(b"host"), is_secure=call.is_secure
        )
    if not is_ours:
        raise Forbidden("This form was sent from another site.")


def is_own_origin(origin: bytes, host: bytes | None, *, is_secure: bool = False) -> bool:
    """True when an origin, like https://shop.example:8443, is at this host; `null` never is.

    If the browser uses TLS, the origin must use it too: anyone on the way can make a page of plain
    HTTP. Otherwise its scheme does not count, since a proxy that ends TLS may not be trusted.
    """
    scheme, _, authority = origin.lower().partition(b"://")
    if is_secure and scheme != b"https":
        return False
    return bool(authority) and authority == (host or b"").lower()


def _cookie(call: Call[Any], value: str, more: str = "") -> Header:
    secure = "; Secure" if call.is_secure else ""
    name = _cookie_name(call)
    cookie = f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{more}"
    return b"set-cookie", cookie.encode()


def _cookie_name(call: Call[Any]) -> str:
    """The cookie's name. Its prefix makes browsers refuse it from another host or plain HTTP."""
    return "__Host-holdfast" if call.is_secure else "holdfast"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
