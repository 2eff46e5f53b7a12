"""Results of a session: rows tagged with their source, and a report on every source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from federation.errors import Remedy
from federation.session.signals import PeerSignal
from federation.v1 import federation_pb2 as pb
from federation.wire.rows import fields


class SourceState(StrEnum):
    """The outcome of one source."""

    OK = "ok"
    CACHED = "cached"
    """Answered from the cache, without a call."""
    OFFLINE = "offline"
    """Unreachable, too slow, or behind an open circuit; also if this gateway's own certificate has expired."""
    DENIED = "denied"
    """Refused by the peer: the grant does not open this, or is revoked or not valid."""
    RATE_LIMITED = "rate_limited"
    """Refused by the rate limit of the peer, with a wait longer than the budget."""
    SKIPPED = "skipped"
    """Not requested: the session knows that the peer is unreachable, or the peer was removed since the first page."""
    FAILED = "failed"
    """Any other failure, such as an internal error of the peer or an invalid request."""

    @property
    def answered(self) -> bool:
        """Whether the result holds the source's rows."""
        return self in {SourceState.OK, SourceState.CACHED}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """The report on one source. `source` is `local` or `federated:<peer>`; `reason` is a `Reason` value or empty.

    `next_step` is a step for the user, and `remedy` the same step as a value if it is an operator's act.
    `retry_after_s` is the time after which a retry may succeed, `None` if unknown.
    """

    source: str
    state: SourceState
    reason: str = ""
    message: str = ""
    next_step: str = ""
    remedy: Remedy | None = None
    latency_ms: float = 0.0
    rows: int = 0
    retry_after_s: float | None = None


@dataclass(frozen=True)
class SessionRow:
    """A row with its tags. `age_s` is the time since a cached answer was requested, 0 for a live answer.

    `score` (in (0, 1], larger is better) and `snippet` are set by searches. Rows are never written to disk.
    """

    row: pb.Row
    source: str
    cached: bool
    age_s: float = 0.0
    score: float = 0.0
    snippet: str = ""

    @property
    def id(self) -> str:
        """The row's id at its source."""
        return self.row.id

    @property
    def resource(self) -> str:
        """The resource that the row belongs to."""
        return self.row.resource

    @cached_property
    def data(self) -> dict[str, Any]:
        """The row's fields, decoded on first use. Raises `InputError` if the peer did not send a JSON object."""
        return fields(self.row)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one source, as `Session.stream` yields it. `capabilities` is set for that verb alone."""

    report: SourceReport
    rows: tuple[SessionRow, ...] = ()
    capabilities: pb.CapabilitiesResponse | None = None

    @property
    def source(self) -> str:
        """The source of the answer: `local` or `federated:<peer>`."""
        return self.report.source


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answers of all sources in one order.

    Lists are ordered by `created_at` descending, then source, then id; searches by score. `signals` holds the signals
    that no earlier result of the session held. An empty `next_page_token` marks the last page.
    """

    rows: tuple[SessionRow, ...] = ()
    sources: tuple[SourceReport, ...] = ()
    signals: tuple[PeerSignal, ...] = ()
    next_page_token: str = ""
    capabilities: Mapping[str, pb.CapabilitiesResponse] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether a requested source did not answer."""
        return any(not report.state.answered for report in self.sources)

    @property
    def row(self) -> SessionRow | None:
        """The first row, such as the row requested by `get`; `None` if no source has a row."""
        return self.rows[0] if self.rows else None
