"""A verb run inside the gateway for one of its users: a session's answers, as messages of the admin socket."""

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
from federation.wire.timestamps import timestamp

__all__ = ["QueryDesk"]

MESSAGE_BYTES: Final = MEBIBYTE
"""Serialized rows of one message; a message holds at least one row, however large."""


class QueryDesk:
    """Answers the operator's queries. A local one sees what the user sees, without any grant's narrowing."""

    def __init__(self, parts: AdminContext) -> None:
        self._parts = parts
        self._sessions = NamedSessions(parts.federation.session, parts.clock)

    async def answer(self, request: pb.QueryRequest) -> AsyncIterator[pb.QueryResponse]:
        """Run the verb that the request holds.

        Raises `InputError`, `NotFoundError`, or for a single source that did not answer the `Refusal` that says why.
        """
        verb = request.WhichOneof("verb")
        if verb is None:
            raise InputError("verb", "name one: list, get, search or capabilities")
        await require_user(self._parts, request.user)
        async with self._sessions.lease(request.user, request.session) as session:
            async for message in _answers(session, request, getattr(request, verb)):
                yield message

    async def close(self) -> None:
        """End the named sessions."""
        await self._sessions.close()


async def _answers(session: Session, asked: pb.QueryRequest, request: Request) -> AsyncIterator[pb.QueryResponse]:
    began = time.perf_counter()
    async with session.stream(
        request, source=asked.source, budget_s=asked.budget_ms / 1_000 if asked.budget_ms else None
    ) as answers:
        refusal: FederationError | None = None
        async for answer in answers:
            refusal = _refusal(answer, asked)
            if refusal is None and (asked.stream or answer.capabilities is not None):
                for message in _of_source(answer, streamed=asked.stream):
                    yield message
        result = answers.result if asked.stream else answers.merged()
    for message in _chunks(result.rows):
        yield message
    if refusal is None or result.signals:  # a session tells its signals once, also beside a refusal
        yield _last(result, time.perf_counter() - began)
    if refusal is not None:
        raise refusal


def _refusal(answer: Answer, asked: pb.QueryRequest) -> FederationError | None:
    """Return what a source that was named has to say instead of an answer."""
    report = answer.report
    absent = asked.WhichOneof("verb") == "get" and not answer.rows
    if asked.source == ALL or (report.state.answered and not absent):
        return None
    text = f"{report.source}: {report.message}" if report.source != LOCAL else report.message
    if report.reason in Reason.__members__:
        # A report of this reason has a remedy only where this gateway wrote the message, which the remedy completes.
        # Other remedies complete the next step, which a refusal does not have.
        remedy = report.remedy if report.reason == Reason.CERTIFICATE_INVALID else None
        return Refusal(Reason(report.reason), text, retry_after_s=report.retry_after_s, remedy=remedy)
    return FederationError(text)


def _of_source(answer: Answer, *, streamed: bool) -> Iterable[pb.QueryResponse]:
    """Yield a source's rows in as many messages as it takes; the last has the report."""
    *before, last = list(_chunks(answer.rows)) or [pb.QueryResponse()]
    for message in before:
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
        filled = pb.QueryRow(
            row=row.row, source=row.source, cached=row.cached, age_s=row.age_s, score=row.score, snippet=row.snippet
        )
        size += filled.ByteSize()
        if size > MESSAGE_BYTES and message.rows:
            yield message
            message, size = pb.QueryResponse(), filled.ByteSize()
        message.rows.append(filled)
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
    message = pb.PeerSignal(
        kind=signal.kind.value,
        peer=signal.peer,
        text=signal.text,
        reason=signal.reason,
        message=signal.message,
        next_step=signal.next_step,
        remedy=_remedy(signal.remedy),
        since=timestamp(signal.since_us),
    )
    if signal.retry_at_us is not None:
        message.retry_at.CopyFrom(timestamp(signal.retry_at_us))
    return message


def _remedy(remedy: Remedy | None) -> pb.Remedy | None:
    return None if remedy is None else pb.Remedy(action=remedy.action.value, parameters=remedy.parameters)
