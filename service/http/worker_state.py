"""What a worker is built from, made once at the edge and handed to the routes."""

from dataclasses import dataclass, field

from db.session.database import Database
from service.engine.audits import SharedAudits
from service.engine.coalescer import Coalescer
from service.engine.imports import Imports
from service.http.credentials import Keys
from service.http.limits.body_room import BodyRoom
from service.http.limits.rate_limit import RateLimit
from service.http.limits.refusals import Refusals
from service.settings import Settings


@dataclass(slots=True)
class Services:
    """The parts of a running worker."""

    settings: Settings
    database: Database
    keys: Keys
    rate_limit: RateLimit
    coalescer: Coalescer
    audits: SharedAudits
    imports: Imports
    body_room: BodyRoom = field(default_factory=BodyRoom)
    refusals: Refusals = field(default_factory=Refusals)
    draining: bool = False
