"""Federations with local rows, for sessions, and readers of session results."""

from pathlib import Path
from typing import Any

from federation.cache.entries import InvalidationReason
from federation.clock import SYSTEM_CLOCK, Clock
from federation.config import SessionConfig
from federation.federation import Federation
from federation.session.results import Result, SourceReport
from federation.store.peers import PeerRecord
from federation.v1 import federation_pb2 as pb
from tests.support.federations import ListedPeers, config_of
from tests.support.provider import START_US, ListedProvider, row

WORK = "federated:work.example"
LAB = "federated:lab.example"
QUICK = SessionConfig(peer_budget_s=0.3)


def own_rows(count: int = 3) -> ListedProvider:
    """Local tasks of ada, newest first."""
    return ListedProvider([row(f"own-{number}", age=number) for number in range(count)], {"ada": set(), "bob": set()})


def with_data(
    directory: Path,
    *records: PeerRecord,
    provider: Any = None,
    clock: Clock = SYSTEM_CLOCK,
    **settings: Any,
) -> Federation:
    """A federation over these peers with local rows, not yet started."""
    own = own_rows() if provider is None else provider
    return Federation(config_of(directory, **settings), ListedPeers(*records), clock=clock, provider=own)


def report(result: Result, source: str) -> SourceReport:
    """The report of one source."""
    return next(each for each in result.sources if each.source == source)


def states(result: Result) -> dict[str, str]:
    """The state of each source."""
    return {each.source: each.state.value for each in result.sources}


def ids(result: Result) -> list[str]:
    """The row ids, in order."""
    return [each.id for each in result.rows]


def peer_rows(*names: str, resource: str = "tasks", age: int = 0) -> pb.ListResponse:
    """A peer's complete list of rows with these ids, each a second older than the one before."""
    reply = pb.ListResponse()
    for number, name in enumerate(names):
        added = reply.rows.add(id=name, resource=resource, owner="ada", data="{}")
        added.created_at.seconds = START_US // 1_000_000 - age - number
    return reply


def flush_peer(fed: Federation, peer: str = "work.example") -> None:
    """Flush a peer's cache entries."""
    found = fed.peer(peer)
    found.cache.flush(InvalidationReason.GRANT_CHANGED, found.grant_id)
