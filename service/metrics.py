"""The Prometheus metrics. Names and labels are those of the API and the schema."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("holdfast_requests", "Requests answered.", ["route", "method", "status"])
OUTCOMES = Counter(
    "holdfast_outcomes", "Commands answered.", ["command", "outcome"]
)  # outcome: created, changed, unchanged or an error's code
CONFLICTS = Counter(
    "holdfast_conflicts", "Transactions that lost a race.", ["kind", "sku_class"]
)  # sku_class: hot, cold or none, see service/engine/contention.py
RETRIES = Counter(
    "holdfast_retries", "Transactions run again after a lost race.", ["kind", "sku_class"]
)
RETRIES_REFUSED = Counter(
    "holdfast_retries_refused", "Retries not made because the worker's retry budget was spent."
)
BATCH_SIZE = Histogram(
    "holdfast_batch_commands",
    "Commands merged into one transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
TRANSACTION_SECONDS = Histogram(
    "holdfast_transaction_seconds",
    "Time from loading the rows to COMMIT, retries included.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
QUEUED = Gauge(
    "holdfast_queued_commands", "Commands that wait for a lane.", multiprocess_mode="livesum"
)
HANDSHAKES_FAILED = Counter(
    "holdfast_handshakes_failed", "Connections that ended before their TLS handshake was complete."
)
EXPIRED = Counter("holdfast_holds_expired", "Overdue holds that the sweeper released.")
