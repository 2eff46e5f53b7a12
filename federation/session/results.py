"""What a session answers: rows that say where they came from, and what became of every source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from federation.errors import Remedy
from federation.session.signals import PeerSignal
from federation.v1 import federation_pb2 as pb
from federation.wire.rows import fields

__all__ = ["Answer", "Result", "SessionRow", "SourceReport", "SourceState"]


class SourceState(StrEnum):
    """What became of one source."""

    OK = "ok"
    CACHED = "cached"
    """Answered from memory: no call was made."""
    OFFLINE = "offline"
    """Unreachable, too slow, or resting behind its circuit; also this gateway's own certificate that has ended."""
    DENIED = "denied"
    """The peer refuses: its grant does not open this, or is revoked or not valid."""
    RATE_LIMITED = "rate_limited"
    """The peer asks for patience, for longer than the budget lasts."""
    SKIPPED = "skipped"
    """Not asked: the session knows that the peer is away, or the peer is gone since the first page."""
    FAILED = "failed"
    """The peer answered with something that is none of these: a fault of its own, or of the request."""

    @property
    def answered(self) -> bool:
        """Whether the source's rows are in the result."""
        return self in {SourceState.OK, SourceState.CACHED}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """One source of a result. `source` is `local` or `federated:<peer>`; `reason` is a `Reason` word or empty.

    `next_step` says what a person can do, and `remedy` is that step as a value where an operator can take it.
    `retry_after_s` is when it makes sense to ask again, `None` if unknown.
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
    """A row with its tags. `age_s` is how long ago it was asked for: 0 for a live answer. Rows are kept in memory only.

    `score` (in (0, 1], larger is better) and `snippet` are set by searches.
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
        """The row's own fields, decoded on first use. Raises `InputError` where the peer sent no JSON object."""
        return fields(self.row)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one source answered, as `Session.stream` yields it. `capabilities` is set for that verb alone."""

    report: SourceReport
    rows: tuple[SessionRow, ...] = ()
    capabilities: pb.CapabilitiesResponse | None = None

    @property
    def source(self) -> str:
        """Whose answer this is."""
        return self.report.source


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answers of all sources in one order.

    Lists run by `created_at` descending, then source, then id; searches by score. `partial` tells that a source is
    missing. `signals` are those that no result of the session has told before. An empty `next_page_token` is the end.
    """

    rows: tuple[SessionRow, ...] = ()
    sources: tuple[SourceReport, ...] = ()
    signals: tuple[PeerSignal, ...] = ()
    next_page_token: str = ""
    capabilities: Mapping[str, pb.CapabilitiesResponse] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether a source that was asked for is missing."""
        return any(not report.state.answered for report in self.sources)

    @property
    def row(self) -> SessionRow | None:
        """The first row, such as the one that `get` asked for; `None` where no source has it."""
        return self.rows[0] if self.rows else None
