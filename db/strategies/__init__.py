"""How load and apply keep others out: one module for each strategy, one interface for all.

The default needs no lock at all. The others are here to be compared, to migrate from, or to live
inside an engine that wants them; nothing outside this folder asks which one is on.
"""

from collections.abc import Callable

from db.strategies.advisory import Advisory
from db.strategies.guard import Guard
from db.strategies.pessimistic import Pessimistic
from db.strategies.redis import Redis
from db.strategies.serializable import Serializable
from db.strategies.version import Version
from db.strategies.zookeeper import ZooKeeper

STRATEGIES = ("guard", "version", "pessimistic", "serializable", "advisory", "redis", "zookeeper")


def open_strategy(
    name: str, *, redis_url: str | None = None, zookeeper_hosts: str | None = None
) -> Guard:
    """Return the strategy of that name. Raises `ValueError` that says which setting is missing."""
    if name == "redis" and not redis_url:
        raise ValueError("the strategy redis needs HOLDFAST_REDIS_URL, as redis://host:port/0")
    if name == "zookeeper" and not zookeeper_hosts:
        raise ValueError("the strategy zookeeper needs HOLDFAST_ZOOKEEPER_HOSTS, as host:port,…")
    makers: dict[str, Callable[[], Guard]] = {
        "guard": Guard,
        "version": Version,
        "pessimistic": Pessimistic,
        "serializable": Serializable,
        "advisory": Advisory,
        "redis": lambda: Redis(str(redis_url)),
        "zookeeper": lambda: ZooKeeper(str(zookeeper_hosts)),
    }
    return makers[name]()
