"""A model of the contract, which runs one command at a time; every batch must give its answers.

The model is written from the contract alone and prefers simple code to fast code. An answer is a
tuple of a status and a content: a resource, a problem's code with its fields, or None.
"""

from datetime import datetime, timedelta
from typing import Any

from service.domain.identifiers import reservation_id


class Refused(Exception):
    def __init__(self, status: int, code: str, **fields: Any) -> None:
        super().__init__((status, {"code": code, **fields}))


class Model:
    """Stock, reservations and earlier requests; `execute` runs a command at a given time."""

    def __init__(self) -> None:
        self.stock: dict[Any, dict[str, Any]] = {}
        self.reservations: dict[Any, dict[str, Any]] = {}
        self.asked: dict[Any, tuple[Any, Any]] = {}  # (kind, source, seq) -> (request, answer)
        self.movements: list[tuple[Any, ...]] = []
        self.now = datetime.min
        self.limits: dict[str, dict[str, int | None]] = {}

    def execute(self, command: Any, now: datetime) -> tuple[int, Any]:
        self.now = now
        try:
            return getattr(self, type(command).__name__)(command)
        except Refused as refusal:
            return refusal.args[0]

    def Reserve(self, c: Any) -> tuple[int, Any]:  # noqa: N802 - named after the command
        id_ = c.id or reservation_id(c.source, c.seq)
        lines = {line.key: line.quantity for line in c.lines}
        holder = self.reservations.get(id_)
        first = self.asked.get(("reservation", c.source, c.seq))
        if holder and holder["source"] != c.source and (c.id or not first):
            raise Refused(422, "idempotency_mismatch", field="id")
        if first:
            (stored_id, *stored), refusal = first
            sent = (lines, c.hold_seconds, c.metadata)
            self.same(("id",), (stored_id,), (c.id or stored_id,))
            self.same(("lines", "hold_seconds", "metadata"), stored, sent)
            return refusal or (200, self.reservations[stored_id])
        if holder:
            raise Refused(422, "idempotency_mismatch", field="seq")
        if c.hold_seconds:
            self.must_not_last(c.source, c.hold_seconds)
        self.must_exist(lines)
        if c.hold_seconds:
            self.must_have_room(c.source, sum(lines.values()))
        if short := self.short(lines):
            self.reclaim(short)
            short = self.short(lines)
        state = "rejected" if short else "held" if c.hold_seconds else "confirmed"
        reservation = self.reservations[id_] = {
            "id": id_, "source": c.source, "seq": c.seq, "version": 1, "state": state,
            "lines": {key: [quantity, 0, 0] for key, quantity in lines.items()},
            "expires_at": self.deadline(c) if state == "held" else None, "created_at": self.now,
        }  # fmt: skip
        refusal = (
            (409, {"code": "insufficient_stock", "reservation_id": id_, "shortages": short})
            if short
            else None
        )
        request = (id_, lines, c.hold_seconds, c.metadata)
        self.asked["reservation", c.source, c.seq] = (request, refusal)
        for key, quantity in [] if short else lines.items():
            if state == "confirmed":
                reservation["lines"][key][1] = quantity
            self.move(key, "reserve", -quantity, quantity if state == "held" else 0, reservation)
        return refusal or (201, reservation)

    def Confirm(self, c: Any) -> tuple[int, Any]:  # noqa: N802
        reservation = self.find(c)
        held = {key: line[0] for key, line in reservation["lines"].items()}
        sold = {key: line[1] for key, line in reservation["lines"].items() if line[1]}
        asked = {line.key: line.quantity for line in c.lines} if c.lines else held
        if reservation["state"] == "confirmed" and asked == sold:
            return 200, reservation
        self.must_be("held", reservation)
        if any(quantity > held.get(key, 0) for key, quantity in asked.items()):
            raise Refused(422, "exceeds_held")
        self.step(reservation, "confirmed")
        for key, line in reservation["lines"].items():
            line[1] = asked.get(key, 0)
            self.move(key, "confirm", line[0] - line[1], -line[0], reservation)
        return 200, reservation

    def Cancel(self, c: Any) -> tuple[int, Any]:  # noqa: N802
        reservation = self.find(c)
        if reservation["state"] != "cancelled":
            self.must_be("held", reservation)
            self.release(reservation, "cancel", "cancelled")
        return 200, reservation

    def Extend(self, c: Any) -> tuple[int, Any]:  # noqa: N802
        reservation = self.find(c)
        self.must_be("held", reservation)
        open_before = (self.now - reservation["created_at"]).total_seconds()
        self.must_not_last(reservation["source"], open_before + c.hold_seconds)
        self.step(reservation, "held")
        reservation["expires_at"] = self.deadline(c)
        return 200, reservation

    def Expire(self, c: Any) -> tuple[int, Any]:  # noqa: N802
        reservation = self.reservations.get(c.id)
        if not reservation or not self.overdue(reservation):
            return 204, None
        self.release(reservation, "expire", "expired")
        return 200, reservation

    def RefundUnits(self, c: Any) -> tuple[int, Any]:  # noqa: N802
        lines = {line.key: line.quantity for line in c.lines} if c.lines else None
        if first := self.asked.get(("refund", *c.identity)):
            self.same(("reservation_id", "lines", "reason"), first[0], (c.id, lines, c.reason))
            return 200, first[1]
        reservation = self.find(c)
        self.must_be("confirmed", reservation)
        left = {key: line[1] - line[2] for key, line in reservation["lines"].items()}
        left = {key: quantity for key, quantity in left.items() if quantity}
        given = left if lines is None else lines
        if any(quantity > left.get(key, 0) for key, quantity in given.items()):
            raise Refused(409, "exceeds_refundable", refundable=left)
        self.must_exist(given)
        self.step(reservation, "refunded" if given == left else "confirmed")
        for key, quantity in given.items():
            reservation["lines"][key][2] += quantity
            self.move(key, "refund", quantity, 0, reservation)
        refund = {"reservation_id": c.id, "lines": given, "reason": c.reason}
        self.asked["refund", *c.identity] = ((c.id, lines, c.reason), refund)
        return 201, refund

    def SetStock(self, c: Any) -> tuple[int, Any]:  # noqa: N802
        key = (c.sku, c.location)
        row = self.present(key)
        self.must_match(c.expected_version, row)
        self.create(key, c.name, c.low_stock_at)
        self.move(key, "set", c.available - self.stock[key]["available"])
        return 200 if row else 201, self.stock[key]

    def AdjustStock(self, c: Any) -> tuple[int, Any]:  # noqa: N802
        key = (c.sku, c.location)
        request = (*key, c.delta, c.reason)
        if first := self.asked.get(("adjustment", *c.identity)):
            self.same(("sku", "location", "delta", "reason"), first[0], request)
            return 200, first[1]
        self.must_exist([key])
        if c.expected_version:
            self.must_match(c.expected_version, self.stock[key])
        if self.stock[key]["available"] + c.delta > 10**12:
            raise Refused(400, "invalid_request")
        if short := self.short({key: -c.delta}):
            self.reclaim(short)
            if c.expected_version:
                self.must_match(c.expected_version, self.stock[key])
        if short := self.short({key: -c.delta}):
            raise Refused(409, "insufficient_stock", shortages=short)
        self.move(key, "adjust", c.delta)
        answer = {"delta": c.delta, "version": self.stock[key]["version"]}
        self.asked["adjustment", *c.identity] = (request, answer)
        return 201, answer

    def DeleteStock(self, c: Any) -> tuple[int, Any]:  # noqa: N802
        key = (c.sku, c.location)
        if row := self.present(key):
            if c.expected_version:
                self.must_match(c.expected_version, row)
            if row["held"]:
                raise Refused(409, "stock_in_use")
            row.update(name=None, low_stock_at=None, deleted=True)
            self.move(key, "delete", -row["available"])
        return 204, None

    def ImportStock(self, c: Any) -> tuple[int, Any]:  # noqa: N802
        key = ("import", c.source, c.job)
        digest, done = self.asked.get(key, ((c.digest,), {"created": 0, "skipped": 0}))
        self.same(("content",), digest, (c.digest,))
        place = sum(done.values()) - c.first
        rows = c.rows[place:] if place >= 0 else ()
        if not rows:
            return 200, done
        missing = [row for row in rows if not self.present(row[:2])]
        for sku, location, available, name in missing:
            self.create((sku, location), name, None)
            self.move((sku, location), "import", available)
        counts = {"created": len(missing), "skipped": len(rows) - len(missing)}
        done = {name: done[name] + count for name, count in counts.items()}
        self.asked[key] = (digest, done)
        return 201, done

    def find(self, c: Any) -> dict[str, Any]:
        """The reservation, if the caller may see it; an overdue hold is expired first."""
        reservation = self.reservations.get(c.id)
        if not reservation or not (
            c.caller.every_source or c.caller.source == reservation["source"]
        ):
            raise Refused(404, "not_found")
        if self.overdue(reservation):
            self.release(reservation, "expire", "expired")
        return reservation

    def overdue(self, reservation: dict[str, Any]) -> bool:
        return reservation["state"] == "held" and reservation["expires_at"] <= self.now

    def deadline(self, c: Any) -> datetime:
        return self.now + timedelta(seconds=c.hold_seconds)

    def reclaim(self, short: dict[Any, Any]) -> None:
        """Expire the overdue holds that have units of a short row."""
        for key in short:
            for _, reservation in sorted(self.reservations.items()):
                if self.overdue(reservation) and key in reservation["lines"]:
                    self.release(reservation, "expire", "expired")

    def release(self, reservation: dict[str, Any], kind: str, state: str) -> None:
        self.step(reservation, state)
        for key, (quantity, _, _) in reservation["lines"].items():
            self.move(key, kind, quantity, -quantity, reservation)

    def step(self, reservation: dict[str, Any], state: str) -> None:
        reservation["state"] = state
        reservation["version"] += 1

    def present(self, key: Any) -> dict[str, Any] | None:
        row = self.stock.get(key)
        return row if row and not row["deleted"] else None

    def create(self, key: Any, name: str | None, low_stock_at: int | None) -> None:
        row = self.stock.setdefault(key, {"available": 0, "held": 0, "version": 0})
        row.update(name=name, low_stock_at=low_stock_at, deleted=False)

    def short(self, lines: dict[Any, int]) -> dict[Any, tuple[int, int]]:
        """The lines that request more than is available, each with (requested, available)."""
        have = {key: self.stock[key]["available"] for key in lines}
        return {key: (n, have[key]) for key, n in lines.items() if n > have[key]}

    def move(self, key: Any, kind: str, available: int, held: int = 0, about: Any = None) -> None:
        row = self.stock[key]
        row["available"] += available
        row["held"] += held
        row["version"] += 1
        assert row["available"] >= 0
        assert row["held"] >= 0
        step = (about["id"], about["version"]) if about else (None, None)
        self.movements.append((*key, row["version"], kind, available, held, *step))

    def used(self, source: str) -> dict[str, int]:
        """The open holds of a source and their units."""
        holds = [
            sum(quantity for quantity, _, _ in row["lines"].values())
            for row in self.reservations.values()
            if row["source"] == source and row["state"] == "held"
        ]
        return {"open_holds_max": len(holds), "held_units_max": sum(holds)}

    def must_have_room(self, source: str, units: int) -> None:
        used, limits = self.used(source), self.limits.get(source, {})
        for limit, asked in (("open_holds_max", 1), ("held_units_max", units)):
            most = limits.get(limit)
            if most is not None and used[limit] + asked > most:
                fields = {"limit": limit, "max": most, "used": used[limit], "asked": asked}
                raise Refused(429, "quota_exceeded", **fields)

    def must_not_last(self, source: str, seconds: float) -> None:
        most = self.limits.get(source, {}).get("hold_seconds_max")
        if most is not None and seconds > most:
            raise Refused(400, "invalid_request")

    def must_exist(self, keys: Any) -> None:
        if unknown := [key for key in keys if not self.present(key)]:
            raise Refused(404, "unknown_sku", unknown=unknown)

    def must_be(self, state: str, reservation: dict[str, Any]) -> None:
        if reservation["state"] != state:
            raise Refused(409, "illegal_transition", state=reservation["state"])

    def must_match(self, expected: int | None, row: dict[str, Any] | None) -> None:
        if expected != (row and row["version"]):
            raise Refused(412, "version_mismatch", current=row and row["version"])

    def same(self, fields: Any, stored: Any, sent: Any) -> None:
        for field, before, now in zip(fields, stored, sent, strict=True):
            if before != now:
                raise Refused(422, "idempotency_mismatch", field=field)
