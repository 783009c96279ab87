"""The cases of `make bench`: the load and the services that get it."""

from dataclasses import dataclass

from bench.load import SKUS_MAX, Load

HOLDFAST, TWO_WORKERS, FOUR_WORKERS = "holdfast", "holdfast, 2 workers", "holdfast, 4 workers"
BARE, BARE_WHOLE = "bare route", "bare route, one write"
TEXTBOOK, GUARDED, CAREFUL = "textbook", "guarded ORM", "careful asyncpg"
LUA, STATEMENT = "Redis + Lua", "bare statement"
LIMITED, LIMITED_TWO = "holdfast, a limited source", "holdfast, 2 workers, a limited source"
EMPTY, GROWN = "empty", "grown"  # of bench.growth
POOLED = "holdfast, PgBouncer"  # of bench.pooler

SERVICES = {
    LIMITED: "the same service; the requests come from a source with both quotas, far from its"
    " limits",
    LIMITED_TWO: "the same with two workers, which compete for the row of the source",
    BARE: "a Litestar route on the same server that validates the same body, builds the same answer"
    " and writes nothing, served by uvicorn: the limit",
    BARE_WHOLE: "the same with Holdfast's own connections, where an answer leaves in one write"
    " (docs/decisions.md, 17)",
    TEXTBOOK: "the usual code of a team: FastAPI, SQLAlchemy's ORM, `SELECT … FOR UPDATE`, one"
    " transaction for each request; no ledger, no replays",
    GUARDED: "the same with a guarded update instead of the lock",
    CAREFUL: "FastAPI and asyncpg without an ORM: one transaction for each request, unique key,"
    " guarded update, ledger",
    LUA: "FastAPI, with the whole reservation as a Lua script in Redis; when it answers, nothing is"
    " on disk",
    STATEMENT: "no service: one connection that sends the ledger's own statement and COMMIT, with"
    " rows made beforehand",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load and the services that get it, Holdfast first."""

    name: str
    sent: Load
    services: tuple[str, ...] = (HOLDFAST,)
    is_short: bool = False
    """True when `--short` includes it."""

    @property
    def has_several_workers(self) -> bool:
        """True when it includes services with several workers."""
        return not {TWO_WORKERS, FOUR_WORKERS, LIMITED_TWO}.isdisjoint(self.services)


HOT = (HOLDFAST, BARE, BARE_WHOLE, TEXTBOOK, GUARDED, CAREFUL, LUA)
LIMITS = (HOLDFAST, TWO_WORKERS, LIMITED_TWO)
MANY = (HOLDFAST, BARE, BARE_WHOLE, TEXTBOOK, CAREFUL)
CASES = (
    Case("hot, 64 connections", Load(), HOT, True),
    Case("10,000 SKUs", Load(skus=10_000), MANY, True),
    Case("idle: one connection", Load(connections=1), (HOLDFAST, BARE, TEXTBOOK, CAREFUL), True),
    Case("hot, 16 connections", Load(connections=16), (HOLDFAST, BARE, TEXTBOOK)),
    Case("hot, 256 connections", Load(connections=256), (HOLDFAST, BARE, TEXTBOOK)),
    Case("hot, more workers", Load(), (HOLDFAST, TWO_WORKERS, FOUR_WORKERS)),
    Case("10,000 SKUs, more workers", Load(skus=10_000), (HOLDFAST, TWO_WORKERS, FOUR_WORKERS)),
    Case("Zipf 1.0 over 100,000 SKUs", Load(skus=SKUS_MAX, zipf=1.0), (HOLDFAST, BARE)),
    Case("Zipf 2.0 over 100,000 SKUs", Load(skus=SKUS_MAX, zipf=2.0), (HOLDFAST, BARE)),
    Case("half are replays", Load("replayed", skus=10_000), (HOLDFAST, BARE)),
    Case("orders of 5 lines", Load(skus=10_000, lines=5), (HOLDFAST, BARE)),
    Case("orders of 50 lines", Load(skus=10_000, lines=50), (HOLDFAST, BARE)),
    Case("sold out", Load(sku="T"), (HOLDFAST, BARE)),
    Case("holds, one SKU", Load("holds"), (HOLDFAST, LIMITED)),
    Case("holds, one SKU, more workers", Load("holds"), LIMITS),
    Case("holds, 10,000 SKUs, more workers", Load("holds", skus=10_000), LIMITS),
    Case("hold, confirm, refund", Load("cycle", skus=10_000)),
    Case(
        "batches of 100",
        Load("many", skus=10_000, batch=100, connections=2),
        (HOLDFAST, STATEMENT),
        True,
    ),
    Case(
        "batches of 1,000",
        Load("many", skus=10_000, batch=1000, connections=2),
        (HOLDFAST, STATEMENT),
        True,
    ),
    Case("10,000 SKUs, 2 connections", Load(skus=10_000, connections=2), is_short=True),
)
