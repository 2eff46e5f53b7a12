"""Handler of `Query`: runs a verb in a session of a local user, and streams the answers as messages."""

import time
from collections.abc import AsyncIterator, Iterable
from typing import Final

from federation.admin.context import AdminContext
from federation.admin.lookup import require_user
from federation.admin.named_sessions import NamedSessions
from federation.errors import FederationError, InputError, Reason, Refusal, Remedy
from federation.session.results import Answer, Result, SessionRow, SourceReport
from federation.session.session import Session
from federation.session.signals import PeerSignal
from federation.session.sources import ALL, LOCAL
from federation.session.validation import Request
from federation.v1 import admin_pb2 as pb
from federation.wire.channel_args import MEBIBYTE
from federation.wire.timestamps import optional_timestamp, timestamp

MAX_MESSAGE_BYTES: Final = MEBIBYTE
"""Largest size of the serialized rows in one message. A larger row has a message of its own."""


class QueryHandlers:
    """Answers the operator's queries. Local data are read with the rights of the user, not narrowed by a grant."""

    def __init__(self, context: AdminContext) -> None:
        self._context = context
        self._sessions = NamedSessions(context.federation.session, context.clock)

    async def answer(self, request: pb.QueryRequest) -> AsyncIterator[pb.QueryResponse]:
        """Run the verb that the request holds.

        Raises `InputError` or `NotFoundError`, and the `Refusal` of the source if the query names a single one.
        """
        verb = request.WhichOneof("verb")
        if verb is None:
            raise InputError("verb", "is missing; use list, get, search or capabilities")
        await require_user(self._context, request.user)
        async with self._sessions.use(request.user, request.session) as session:
            async for message in _answers(session, request, getattr(request, verb)):
                yield message

    async def close(self) -> None:
        """Close the named sessions."""
        await self._sessions.close()


async def _answers(session: Session, query: pb.QueryRequest, request: Request) -> AsyncIterator[pb.QueryResponse]:
    began = time.perf_counter()
    async with session.stream(
        request, source=query.source, budget_s=query.budget_ms / 1_000 if query.budget_ms else None
    ) as answers:
        refusal: FederationError | None = None
        async for answer in answers:
            refusal = _refusal(answer, query)
            if refusal is None and (query.stream or answer.capabilities is not None):
                for message in _source_messages(answer, streamed=query.stream):
                    yield message
        result = answers.result if query.stream else answers.merged()
    for message in _chunks(result.rows):
        yield message
    if refusal is None or result.signals:  # a session gives each signal once: send it even with a refusal
        yield _last(result, time.perf_counter() - began)
    if refusal is not None:
        raise refusal


def _refusal(answer: Answer, query: pb.QueryRequest) -> FederationError | None:
    """Return the error of a source that the query names and that did not answer, `None` otherwise."""
    report = answer.report
    absent = query.WhichOneof("verb") == "get" and not answer.rows
    if query.source == ALL or (report.state.answered and not absent):
        return None
    text = f"{report.source}: {report.message}" if report.source != LOCAL else report.message
    if report.reason in Reason.__members__:
        # With this reason, a remedy completes the message, which this gateway wrote. Other remedies complete the next
        # step of the report, which a refusal does not have.
        remedy = report.remedy if report.reason == Reason.CERTIFICATE_INVALID else None
        return Refusal(Reason(report.reason), text, retry_after_s=report.retry_after_s, remedy=remedy)
    return FederationError(text)


def _source_messages(answer: Answer, *, streamed: bool) -> Iterable[pb.QueryResponse]:
    """Yield a source's rows in one or more messages. The last message has the latency and the report."""
    *earlier, last = list(_chunks(answer.rows)) or [pb.QueryResponse()]
    for message in earlier:
        message.source = answer.source
        yield message
    last.source, last.latency_ms = answer.source, answer.report.latency_ms
    if answer.capabilities is not None:
        last.capabilities.CopyFrom(answer.capabilities)
    if streamed:
        last.report.CopyFrom(_report(answer.report))
    yield last


def _chunks(rows: Iterable[SessionRow]) -> Iterable[pb.QueryResponse]:
    message, size = pb.QueryResponse(), 0
    for row in rows:
        query_row = pb.QueryRow(
            row=row.row, source=row.source, cached=row.cached, age_s=row.age_s, score=row.score, snippet=row.snippet
        )
        size += query_row.ByteSize()
        if size > MAX_MESSAGE_BYTES and message.rows:
            yield message
            message, size = pb.QueryResponse(), query_row.ByteSize()
        message.rows.append(query_row)
    if message.rows:
        yield message


def _last(result: Result, took_s: float) -> pb.QueryResponse:
    summary = pb.QuerySummary(
        sources=map(_report, result.sources), partial=result.partial, signals=map(_signal, result.signals)
    )
    return pb.QueryResponse(next_page_token=result.next_page_token, latency_ms=took_s * 1e3, summary=summary)


def _report(report: SourceReport) -> pb.SourceReport:
    return pb.SourceReport(
        source=report.source,
        state=report.state.value,
        reason=report.reason,
        message=report.message,
        next_step=report.next_step,
        remedy=_remedy(report.remedy),
        latency_ms=report.latency_ms,
        rows=report.rows,
        retry_after_s=report.retry_after_s or 0.0,
    )


def _signal(signal: PeerSignal) -> pb.PeerSignal:
    return pb.PeerSignal(
        kind=signal.kind.value,
        peer=signal.peer,
        text=signal.text,
        reason=signal.reason,
        message=signal.message,
        next_step=signal.next_step,
        remedy=_remedy(signal.remedy),
        since=timestamp(signal.since_us),
        retry_at=optional_timestamp(signal.retry_at_us),
    )


def _remedy(remedy: Remedy | None) -> pb.Remedy | None:
    return None if remedy is None else pb.Remedy(action=remedy.action.value, parameters=remedy.parameters)
