"""A query run inside the gateway, and its answer printed: live, as tables, or as JSON."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from federation.admin.client import connect
from federation.errors import FederationError
from federation.v1 import admin_pb2 as pb
from federation.v1 import federation_pb2
from mosaic_cli.output import console, shapes
from mosaic_cli.query import rows
from mosaic_cli.query import shapes as query_shapes
from mosaic_cli.query.answers import Answers, milliseconds

__all__ = ["QueryCommand"]

ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryCommand:
    """Who asks whom, and how the answer is printed. `budget` is in seconds; 0 means as the gateway is set.

    Each method raises `GatewayUnavailableError`, and what the gateway says of the request or of a named source.
    """

    gateway: Path
    user: str
    source: str
    session: str = ""
    budget: float = 0.0
    as_json: bool = False

    def print_rows(self, **verb: Any) -> None:
        """Run `list` or `search` and print rows; on a terminal those of each source as it answers."""
        search = "search" in verb
        answers = self._ask(rows.LiveTable(search=search).show if self._live else None, **verb)
        if self.as_json:
            console.write(shapes.dump(query_shapes.rows(answers, search=search)))
            return
        if not self._live:
            rows.listing(answers, search=search)
        rows.close(answers, reported=self._live)

    def print_row(self, request: federation_pb2.GetRequest) -> None:
        """Run `get` and print the row, of each source that has it. Raises `Refusal` where none has."""
        answers = self._ask(get=request)
        if not self.as_json:
            rows.show(answers.rows)
            rows.close(answers, count=False)
        elif answers.rows or self.source == ALL:
            console.write(shapes.dump(query_shapes.found(answers)))
        if not answers.rows:
            raise answers.not_found

    def print_capabilities(self) -> None:
        """Run `capabilities` and print what each source opens."""
        answers = self._ask(capabilities=federation_pb2.CapabilitiesRequest())
        if self.as_json:
            console.write(shapes.dump(query_shapes.capabilities(answers, self.source)))
            return
        for number, (source, capabilities) in enumerate(answers.capabilities.items()):
            if self.source == ALL:
                console.write("") if number else None
                console.heading(source, "")
            rows.print_capabilities(capabilities)
        rows.close(answers, count=False)

    @property
    def _live(self) -> bool:
        """Whether each source's rows are shown as it answers: a person looks on, and there are several."""
        return self.source == ALL and sys.stdout.isatty() and not self.as_json

    def _ask(self, show: Callable[[pb.QueryResponse], None] | None = None, **verb: Any) -> Answers:
        request = pb.QueryRequest(
            user=self.user,
            source=self.source,
            session=self.session,
            stream=show is not None,
            budget_ms=milliseconds(self.budget),
            **verb,
        )
        answers = Answers()
        try:
            with connect(self.gateway) as admin:
                for part in admin.Query(request):
                    answers.add(part)
                    if show is not None:
                        show(part)
        except FederationError:
            if self.session:  # a session of this query alone is told nothing that the error does not say
                rows.print_signals(answers)
            raise
        return answers
