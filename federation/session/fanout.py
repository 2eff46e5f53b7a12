"""Fan-out of one request to all its sources in parallel, for every verb."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import get_current_span

from federation.errors import Reason, Refusal
from federation.session.classification import peer_removed
from federation.session.paging.cursors import Cursor
from federation.session.paging.merge import Page, merge, remaining_cursors
from federation.session.paging.query_plans import OrderViolationError, QueryPlan, Tags
from federation.session.peer_request import PeerRequest, RequestContext
from federation.session.results import Answer, Result, SourceReport, SourceState
from federation.session.sources import LOCAL
from federation.v1 import federation_pb2 as pb
from federation.wire.verbs import VERB_BY_NAME

if TYPE_CHECKING:
    from federation.client.peers.peer import Peer
    from federation.session.availability.availability import PeerAvailability
    from federation.session.context import SessionContext
    from federation.session.signals import PeerSignal

BATCH_S: Final = 0.002
"""Seconds spent on starting peer requests before control returns to the loop, so that local data need not wait."""
LOCAL_HEAD_START_S: Final = 0.02
"""Seconds for which the remaining peer requests are deferred after the first batch while local data are read."""


class FanOut:
    """Sends a request to every source. `answers` collects the answers; `next` waits for one more."""

    def __init__(
        self,
        context: "SessionContext",
        availability: "PeerAvailability",
        user: str,
        plan: QueryPlan[Any],
        cursors: Mapping[str, Cursor],
        peers: Mapping[str, "Peer"],
        *,
        peer_budget_s: float,
        request_budget_s: float | None,
    ) -> None:
        self._session_context, self._availability, self._user, self._plan = context, availability, user, plan
        self._cursors, self._peers = dict(cursors), peers
        self._request_budget_s = request_budget_s
        self._loop = asyncio.get_running_loop()
        self._started_at = context.clock.monotonic()
        budget_s = min(peer_budget_s, request_budget_s or peer_budget_s)
        self._context = RequestContext(plan.verb, self._started_at + budget_s, context.clock, span=get_current_span())
        self.answers: deque[Answer] = deque()
        self._reports: dict[str, SourceReport] = {}
        self._pages: dict[str, Page] = {}
        self._capabilities: dict[str, pb.CapabilitiesResponse] = {}
        self._signals: tuple[PeerSignal, ...] = ()
        self._pending = len(self._cursors)
        self._requests: list[PeerRequest] = []
        self._local: asyncio.Task[None] | None = None
        self._starting: asyncio.Handle | None = None
        self._deferred: deque[str] = deque()
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self.cancelled = False
        self._start()

    async def next(self) -> Answer | None:
        """Return the next answer, `None` at the end. Raises `InputError` if the request is invalid."""
        while not self.answers:
            if self._error is not None:
                raise self._error
            if not self._pending:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self.answers.popleft()

    def cancel(self, error: Exception | None = None) -> None:
        """Cancel all requests in progress. Callers waiting in `next` get `error`."""
        if not self._pending:
            return
        self._pending = 0
        self._error, self.cancelled = error, True
        if self._starting is not None:
            self._starting.cancel()
        if self._local is not None and not self._loop.is_closed():
            self._local.cancel()
        for peer_request in self._requests:
            peer_request.cancel()
        self._requests.clear()
        self._changed.set()

    async def wait_local(self) -> None:
        """Wait until a cancelled read of local data has ended."""
        if self._local is not None:
            await asyncio.wait([self._local])

    def cancel_threadsafe(self) -> None:
        """Cancel in a later iteration of the loop. Finalizers call this anywhere, even while a call holds a lock."""
        if self._pending:
            with suppress(RuntimeError):  # the loop is closed, which ended all requests
                self._loop.call_soon_threadsafe(self.cancel)

    def merged(self) -> Result:
        """Return the merged answers up to the limit, and a token that continues after them."""
        rows, used = merge(self._pages.values(), self._plan.limit)
        return replace(self._result(used), rows=rows)

    def unmerged(self) -> Result:
        """Return the result without rows, and a token that continues after all rows of all answers."""
        return self._result({source: len(page.rows) for source, page in self._pages.items()})

    def _result(self, used: Mapping[str, int]) -> Result:
        """Return the result without rows, after the first `used` rows of the page of each source."""
        after = {
            source: self._plan.next_cursor(page, used[source], self._cursors[source])
            for source, page in self._pages.items()
        }
        self._signals += self._availability.unreported()
        cursors = remaining_cursors(self._cursors, after, self._pages) if VERB_BY_NAME[self._plan.verb].paged else {}
        return Result(
            sources=tuple(self._reports[source] for source in self._cursors if source in self._reports),
            signals=self._signals,
            next_page_token=self._session_context.tokens.seal(self._plan.context, cursors),
            capabilities=dict(self._capabilities),
        )

    def _start(self) -> None:
        if LOCAL in self._cursors:
            self._local = self._loop.create_task(self._read_local())
        self._request_peers(deque(source for source in self._cursors if source != LOCAL), defer=self._local is not None)

    def _request_peers(self, sources: deque[str], *, defer: bool = False) -> None:
        self._starting, self._deferred = None, deque()
        until = self._session_context.clock.monotonic() + BATCH_S
        while sources and self._pending:
            self._request_peer(sources.popleft())
            if sources and self._session_context.clock.monotonic() >= until:
                if defer:
                    self._deferred = sources
                    self._starting = self._loop.call_later(LOCAL_HEAD_START_S, self._request_peers, sources)
                else:
                    self._starting = self._loop.call_soon(self._request_peers, sources)
                return

    def _request_peer(self, source: str) -> None:
        peer = self._peers.get(source)
        if peer is None:
            self._deliver(source, peer_removed(source), None)
            return
        request, channel = self._plan.request(self._cursors[source]), self._session_context.channel(peer)
        peer_request = PeerRequest(
            self._context, peer, channel, self._availability, request, partial(self._deliver, source)
        )
        self._requests.append(peer_request)
        peer_request.start()

    async def _read_local(self) -> None:
        plan = self._plan
        message, report = None, SourceReport(source=LOCAL, state=SourceState.OK)
        try:
            async with asyncio.timeout(self._request_budget_s):
                request = plan.request(self._cursors[LOCAL])
                message = await self._session_context.local.read(self._user, plan.verb, request)
        except Refusal as refusal:
            absent = refusal.reason is Reason.ROW_NOT_FOUND
            state = SourceState.OK if absent else SourceState.FAILED
            report = replace(report, state=state, reason=str(refusal.reason), message=refusal.message)
        except TimeoutError:
            text = "the gateway's own data took longer than the request's budget"
            report = replace(report, state=SourceState.FAILED, reason=str(Reason.PEER_TIMEOUT), message=text)
        except Exception as e:  # noqa: BLE001 - an invalid request or a bug: `next` raises it
            self.cancel(e)
            return
        took_s = self._session_context.clock.monotonic() - self._started_at
        self._deliver(LOCAL, replace(report, latency_ms=took_s * 1e3), message)
        if self._deferred and self._starting is not None:
            self._starting.cancel()
            self._starting = self._loop.call_soon(self._request_peers, self._deferred)

    def _deliver(
        self, source: str, report: SourceReport, message: Any, cached: bool = False, age_s: float = 0.0
    ) -> None:
        if not self._pending:
            return
        page = None
        if message is not None:
            try:
                page = self._plan.page(message, self._cursors[source], Tags(source, cached, age_s))
            except OrderViolationError as e:
                report = replace(report, state=SourceState.FAILED, reason=str(Reason.INTERNAL), message=str(e))
        elif report.state.answered:  # a row that does not exist
            page = Page(source)
        capabilities = None
        if page is not None:
            self._pages[source] = page
            report = replace(report, rows=len(page.rows))
            if isinstance(message, pb.CapabilitiesResponse):
                capabilities = self._capabilities[source] = message
        self._reports[source] = report
        self.answers.append(Answer(report, page.rows if page is not None else (), capabilities))
        self._pending -= 1
        if not self._pending:
            self._requests.clear()
        self._changed.set()
