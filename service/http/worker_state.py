"""The parts of a worker, built once at its start and handed to every route."""

from dataclasses import dataclass, field

from db.session.database import Database
from service.engine.access_log import AccessLog
from service.engine.audits import SharedAudits
from service.engine.coalescer import Coalescer
from service.engine.imports import Imports
from service.engine.source_limits import SourceLimits
from service.http.access.authentication import Authentication
from service.http.limits.body_room import BodyRoom
from service.http.limits.in_flight import InFlight
from service.http.limits.keyless import KeylessRequests
from service.http.limits.rate_limit import RateLimit
from service.http.limits.refusal_pauses import RefusalPauses
from service.http.limits.refusals import Refusals
from service.input.proxies import TrustedProxies
from service.settings import Settings


@dataclass(slots=True)
class WorkerState:
    """The parts of a running worker."""

    settings: Settings
    database: Database
    authentication: Authentication
    rate_limit: RateLimit
    in_flight: InFlight
    keyless: KeylessRequests
    coalescer: Coalescer
    audits: SharedAudits
    imports: Imports
    source_limits: SourceLimits
    access_log: AccessLog
    refusal_pauses: RefusalPauses = field(default_factory=RefusalPauses)
    body_room: BodyRoom = field(default_factory=BodyRoom)
    refusals: Refusals = field(default_factory=Refusals)
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    draining: bool = False
    """The worker is about to end: it is not ready for further requests."""
