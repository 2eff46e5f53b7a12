"""The answers of all sources to one query, collected from the gateway's messages."""

from dataclasses import dataclass, field
from typing import Final

from federation.errors import FederationError, Reason, Refusal
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2

MILLISECONDS: Final = 1_000
ANSWERED: Final = frozenset({"ok", "cached"})
"""States of a source that answered."""


@dataclass(slots=True)
class Answers:
    """The answers of all sources. `capabilities` is by source; `signals` are those that are new to the session.

    `error` is the failure of the query, for callers that need it together with the signals.
    """

    rows: list[pb.QueryRow] = field(default_factory=list)
    capabilities: dict[str, federation_pb2.CapabilitiesResponse] = field(default_factory=dict)
    sources: list[pb.SourceReport] = field(default_factory=list)
    signals: list[pb.PeerSignal] = field(default_factory=list)
    partial: bool = False
    next_page_token: str = ""
    error: FederationError | None = None

    def add(self, part: pb.QueryResponse) -> None:
        """Add one message of the answer."""
        self.rows.extend(part.rows)
        if part.HasField("capabilities"):
            self.capabilities[part.source] = part.capabilities
        self.next_page_token = part.next_page_token or self.next_page_token
        if part.HasField("summary"):
            self.sources = list(part.summary.sources)
            self.signals = list(part.summary.signals)
            self.partial = part.summary.partial

    @property
    def missing(self) -> list[pb.SourceReport]:
        """The sources that did not answer."""
        return [report for report in self.sources if report.state not in ANSWERED]

    @property
    def not_found(self) -> Refusal:
        """The error of a `get` that found no row."""
        missing = ", ".join(report.source for report in self.missing)
        where = f" at a source that answered; these did not: {missing}" if missing else ""
        return Refusal(Reason.ROW_NOT_FOUND, f"no such row that this user may read{where}")


def milliseconds(budget: float) -> int:
    """Return a budget of seconds in milliseconds, at least 1. 0 stays 0, which means the gateway's default."""
    return max(1, round(budget * MILLISECONDS)) if budget else 0
