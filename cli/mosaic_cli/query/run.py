"""Runs a query through the gateway and prints the answer: live, as a table, or as JSON."""

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

ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryCommand:
    """The user and source of a query, and its output format. `budget` is in seconds; 0 means the gateway's setting.

    Each method raises `GatewayUnavailableError`, or the gateway's error of the request or of a named source.
    """

    gateway: Path
    user: str
    source: str
    session: str = ""
    budget: float = 0.0
    as_json: bool = False

    def print_rows(self, **verb: Any) -> None:
        """Run `list` or `search` and print the rows. On a terminal, prints those of each source as it answers."""
        search = "search" in verb
        answers = self._ask(rows.LiveTable(search=search).show if self._live else None, **verb)
        if self.as_json:
            console.write(shapes.dump(query_shapes.rows(answers, search=search)))
            return
        if not self._live:
            rows.table(answers.rows, search=search)
        rows.close(answers, reported=self._live)

    def print_row(self, request: federation_pb2.GetRequest) -> None:
        """Run `get` and print the row from each source that has it. Raises `Refusal` if no source has it."""
        answers = self._ask(get=request)
        if not self.as_json:
            rows.show(answers.rows)
            rows.close(answers, count=False)
        elif answers.rows or self.source == ALL:
            console.write(shapes.dump(query_shapes.found(answers)))
        if not answers.rows:
            raise answers.not_found

    def print_capabilities(self) -> None:
        """Run `capabilities` and print those of each source."""
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
        """Whether to print each source's rows as it answers: on a terminal, with all sources."""
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
            if self.session:  # without a session, the signals only repeat the error
                rows.print_signals(answers)
            raise
        return answers
