"""What a worker is built from, made once at the edge and handed to the routes."""

from dataclasses import dataclass, field

from db.database import Database
from service.audits import Audits
from service.auth import Keys
from service.body_room import BodyRoom
from service.coalescer import Coalescer
from service.imports import Imports
from service.rate_limit import RateLimit
from service.refusals import Refusals
from service.settings import Settings


@dataclass(slots=True)
class Services:
    """The parts of a running worker."""

    settings: Settings
    database: Database
    keys: Keys
    rate_limit: RateLimit
    coalescer: Coalescer
    audits: Audits
    imports: Imports
    body_room: BodyRoom = field(default_factory=BodyRoom)
    refusals: Refusals = field(default_factory=Refusals)
    draining: bool = False
