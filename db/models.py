"""The tables and their constraints. The CHECKs repeat the rules, in case a guard in the SQL fails.

The primary keys of stock and of reservations begin with the SKU or with the reservation's id, and
there are no foreign keys, so that the tables can be sharded. Text is compared byte by byte
(collation "C"). The key of a movement is the version that it gave its stock row, so the ledger has
no gaps and no line is written twice.

`db.rows` has the rows of these tables as plain values.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from db.vocabulary import RESERVATION_KINDS, MovementKind, Scope, State, Tracking, sql_list

BYTEWISE = Text(collation="C")
MOMENT = DateTime(timezone=True)


class Base(DeclarativeBase):
    """The base of all tables; its metadata is the schema."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )


class StockTable(Base):
    """Units of a SKU at a location.

    Its pages are filled by half and no index has a column that changes. So updates are HOT: they
    write no index (heap-only tuples).
    """

    __tablename__ = "stock"
    __table_args__ = (
        CheckConstraint("available >= 0", name="available"),
        CheckConstraint("held >= 0", name="held"),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint("low_stock_at >= 0", name="low_stock_at"),
        CheckConstraint("deleted_at IS NULL OR (available = 0 AND held = 0)", name="deleted_at"),
        Index("stock_created_at_sku_location_idx", "created_at", "sku", "location"),
        {"postgresql_with": {"fillfactor": 50}},
    )

    sku: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    location: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    name: Mapped[str | None] = mapped_column(Text)
    available: Mapped[int] = mapped_column(BigInteger)
    held: Mapped[int] = mapped_column(BigInteger)
    low_stock_at: Mapped[int | None] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(MOMENT)
    updated_at: Mapped[datetime] = mapped_column(MOMENT)
    deleted_at: Mapped[datetime | None] = mapped_column(MOMENT)
    fence: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class ReservationTable(Base):
    """An order's claim on stock; its state machine is in service/domain/lifecycle.py."""

    __tablename__ = "reservation"
    __table_args__ = (
        UniqueConstraint("source", "seq"),
        CheckConstraint(f"state IN ({sql_list(State)})", name="state"),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint(
            "state NOT IN ('held', 'cancelled', 'expired') OR expires_at IS NOT NULL",
            name="expires_at",
        ),
        CheckConstraint("(state = 'rejected') = (shortages IS NOT NULL)", name="shortages"),
        Index("reservation_created_at_id_idx", "created_at", "id"),
        Index(
            "reservation_expires_at_id_idx",
            "expires_at",
            "id",
            postgresql_where=text("state = 'held'"),
        ),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    source: Mapped[str] = mapped_column(BYTEWISE)
    seq: Mapped[str] = mapped_column(BYTEWISE)
    state: Mapped[str] = mapped_column(BYTEWISE)
    version: Mapped[int] = mapped_column(Integer)
    hold_seconds: Mapped[int | None] = mapped_column(Integer)
    expires_at: Mapped[datetime | None] = mapped_column(MOMENT)
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata", JSON)
    shortages: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(MOMENT)
    updated_at: Mapped[datetime] = mapped_column(MOMENT)


class ReservationLineTable(Base):
    """The units of one stock row in a reservation: ordered, confirmed and refunded."""

    __tablename__ = "reservation_line"
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity"),
        CheckConstraint("confirmed BETWEEN 0 AND quantity", name="confirmed"),
        CheckConstraint("refunded BETWEEN 0 AND confirmed", name="refunded"),
        Index("reservation_line_sku_reservation_id_idx", "sku", "reservation_id"),
    )

    reservation_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    sku: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    location: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    quantity: Mapped[int] = mapped_column(BigInteger)
    confirmed: Mapped[int] = mapped_column(BigInteger)
    refunded: Mapped[int] = mapped_column(BigInteger)


class RefundTable(Base):
    """Units of a reservation that one request gave back to `available`."""

    __tablename__ = "refund"
    __table_args__ = (UniqueConstraint("source", "seq"),)

    reservation_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    source: Mapped[str] = mapped_column(BYTEWISE)
    seq: Mapped[str] = mapped_column(BYTEWISE)
    entire: Mapped[bool]
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(MOMENT)


class RefundLineTable(Base):
    """Units of one stock row that a refund gave back."""

    __tablename__ = "refund_line"
    __table_args__ = (CheckConstraint("quantity > 0", name="quantity"),)

    reservation_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    refund_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    sku: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    location: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    quantity: Mapped[int] = mapped_column(BigInteger)


class AdjustmentTable(Base):
    """A correction of `available`, with its reason; `version` identifies its movement."""

    __tablename__ = "adjustment"
    __table_args__ = (
        UniqueConstraint("source", "seq"),
        CheckConstraint("delta <> 0", name="delta"),
    )

    sku: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    location: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[UUID] = mapped_column(Uuid)
    source: Mapped[str] = mapped_column(BYTEWISE)
    seq: Mapped[str] = mapped_column(BYTEWISE)
    delta: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(MOMENT)


class ImportJobTable(Base):
    """A stock import and its progress; `digest` is the SHA-256 of its bytes."""

    __tablename__ = "import_job"
    __table_args__ = (CheckConstraint("created + skipped <= rows_in_all", name="rows_in_all"),)

    source: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    job: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    digest: Mapped[str] = mapped_column(BYTEWISE)
    rows_in_all: Mapped[int] = mapped_column(Integer)
    created: Mapped[int] = mapped_column(Integer)
    skipped: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(MOMENT)


class MovementTable(Base):
    """One append-only line of the ledger: the change that took a stock row to `version`."""

    __tablename__ = "movement"
    __table_args__ = (
        CheckConstraint(f"kind IN ({sql_list(MovementKind)})", name="kind"),
        CheckConstraint(
            f"(reservation_id IS NOT NULL) = (kind IN ({sql_list(RESERVATION_KINDS)}))",
            name="reservation_id",
        ),
        Index(
            "movement_step_key",
            "reservation_id",
            "reservation_version",
            "sku",
            "location",
            unique=True,
            postgresql_where=text("reservation_id IS NOT NULL"),
        ),
    )

    sku: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    location: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(BYTEWISE)
    available_delta: Mapped[int] = mapped_column(BigInteger)
    held_delta: Mapped[int] = mapped_column(BigInteger)
    reservation_id: Mapped[UUID | None] = mapped_column(Uuid)
    reservation_version: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(MOMENT)


class PageSessionTable(Base):
    """A browser that has signed in with a key. Only the SHA-256 of its cookie is stored."""

    __tablename__ = "page_session"
    __table_args__ = (Index("page_session_expires_at_idx", "expires_at"),)

    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    key_id: Mapped[UUID] = mapped_column(Uuid)
    created_at: Mapped[datetime] = mapped_column(MOMENT)
    expires_at: Mapped[datetime] = mapped_column(MOMENT)


class ApiKeyTable(Base):
    """A credential. Only the SHA-256 of its key is stored; the key is long and random.

    A key that a request made has the identity of the request: its `issuer`, which is the source of
    the caller, and its `seq`. `content` is the content of that request.
    """

    __tablename__ = "api_key"
    __table_args__ = (
        UniqueConstraint("digest"),
        UniqueConstraint("issuer", "seq"),
        CheckConstraint(
            "(seq IS NULL) = (issuer IS NULL) AND (seq IS NULL) = (content IS NULL)",
            name="content",
        ),
        CheckConstraint(
            f"scopes <@ ARRAY[{sql_list(Scope)}] AND cardinality(scopes) > 0",
            name="scopes",
        ),
        Index("api_key_created_at_id_idx", "created_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    source: Mapped[str] = mapped_column(BYTEWISE)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    is_first: Mapped[bool]
    """True for the admin key that a service was started with."""
    created_at: Mapped[datetime] = mapped_column(MOMENT)
    revoked_at: Mapped[datetime | None] = mapped_column(MOMENT)
    prefix: Mapped[str | None] = mapped_column(BYTEWISE)
    """The first characters of the key; None for a key that an older version made."""
    label: Mapped[str | None] = mapped_column(Text)
    expires_at: Mapped[datetime | None] = mapped_column(MOMENT)
    lifetime: Mapped[timedelta | None] = mapped_column(Interval)
    """The time for which the key was made; None without an expiry. A rotation does not shorten it,
    and the new key gets the same."""
    last_used_at: Mapped[datetime | None] = mapped_column(MOMENT)
    issuer: Mapped[str | None] = mapped_column(BYTEWISE)
    seq: Mapped[str | None] = mapped_column(BYTEWISE)
    content: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class SourceLimitTable(Base):
    """The limits of a source (null: none), and its open holds and their units while tracked.

    With `tracking` off, `open_holds` and `held_units` mean nothing. While it is `counting`,
    transactions add their changes to them, but the holds that were open before are still missing.
    """

    __tablename__ = "source_limit"
    __table_args__ = (
        CheckConstraint(f"tracking IN ({sql_list(Tracking)})", name="tracking"),
        CheckConstraint(
            "(tracking = 'off') = (open_holds_max IS NULL AND held_units_max IS NULL)",
            name="quota",
        ),
        CheckConstraint(
            "tracking <> 'on' OR (open_holds >= 0 AND held_units >= 0)",
            name="used",
        ),
        {"postgresql_with": {"fillfactor": 50}},
    )

    source: Mapped[str] = mapped_column(BYTEWISE, primary_key=True)
    open_holds_max: Mapped[int | None] = mapped_column(Integer)
    held_units_max: Mapped[int | None] = mapped_column(BigInteger)
    hold_seconds_max: Mapped[int | None] = mapped_column(Integer)
    requests_per_second: Mapped[int | None] = mapped_column(Integer)
    tracking: Mapped[str] = mapped_column(BYTEWISE)
    open_holds: Mapped[int] = mapped_column(BigInteger)
    held_units: Mapped[int] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(BigInteger)


class AccessLogTable(Base):
    """A use of an admin key, or `count` equal uses or refusals of the same minute.

    `route` is the template of a path, never the path. A member that is null has no value, or has
    several in a row that stands for different requests.
    """

    __tablename__ = "access_log"
    __table_args__ = (
        CheckConstraint("count >= 1", name="count"),
        Index("access_log_at_id_idx", "at", "id"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    at: Mapped[datetime] = mapped_column(MOMENT)
    key_id: Mapped[UUID | None] = mapped_column(Uuid)
    source: Mapped[str | None] = mapped_column(BYTEWISE)
    address: Mapped[str | None] = mapped_column(BYTEWISE)
    method: Mapped[str | None] = mapped_column(BYTEWISE)
    route: Mapped[str | None] = mapped_column(BYTEWISE)
    status: Mapped[int | None] = mapped_column(Integer)
    request_id: Mapped[str | None] = mapped_column(BYTEWISE)
    count: Mapped[int] = mapped_column(BigInteger)
