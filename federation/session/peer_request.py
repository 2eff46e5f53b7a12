"""One request to one peer: answered from the cache, sent through the chain, or skipped. Uses callbacks, no task."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message
from grpc.aio import AioRpcError
from opentelemetry.trace import Span

from federation.client.aio.call import FlowCall
from federation.client.aio.channel import AioChannel
from federation.client.chain.flow import Outcome
from federation.client.peers.peer import Peer
from federation.clock import MICROSECONDS, Clock
from federation.errors import Reason
from federation.sanitize import printable
from federation.session.availability.availability import PeerAvailability
from federation.session.classification import MIN_CONCLUSIVE_S, NextStep, classify, next_step
from federation.session.results import SourceReport, SourceState
from federation.session.signals import PeerSignal, SignalKind
from federation.session.sources import source_of
from federation.wire.status import error_detail
from federation.wire.verbs import VERB_BY_NAME

LOGGER: Final = logging.getLogger(__name__)
MIN_RETRY_WAIT_S: Final = 0.05
"""Shortest wait before a retry at a rate-limiting peer, in seconds."""
MIN_REMAINING_S: Final = 0.01
"""Smallest remaining budget in seconds with which a retry after the wait makes sense."""
Deliver = Callable[[SourceReport, Any, bool, float], None]
"""Called with the report, and for an answer with its message, whether it was cached, and its age in seconds."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The part of a request that is the same for all peers. `deadline` is in seconds of the monotonic clock."""

    verb: str
    deadline: float
    clock: Clock
    span: Span


class PeerRequest:
    """Requests one peer, and calls `deliver` exactly once unless cancelled before."""

    def __init__(
        self,
        context: RequestContext,
        peer: Peer,
        channel: AioChannel,
        availability: PeerAvailability,
        request: Message,
        deliver: Deliver,
    ) -> None:
        self._peer, self._channel, self._availability = peer, channel, availability
        self._request, self._verb, self._method = request, context.verb, VERB_BY_NAME[context.verb]
        self._now, self._now_us = context.clock.monotonic, context.clock.now_us
        self._started, self._deadline = self._now(), context.deadline
        self._span, self._deliver = context.span, deliver
        self._loop = asyncio.get_running_loop()
        self._call: FlowCall | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._returns = 0
        self._full_budget = True
        self._budget_s = 0.0
        self._finished = False

    def start(self) -> None:
        """Start the request. Delivers at once if possible, otherwise in a later iteration of the loop."""
        outage = self._availability.outage(self._peer, self._span)
        deferred_s = self._availability.deferred_s(self._peer)
        if outage is None and not deferred_s:
            self._send()
            return
        hit = self._channel.start(self._method, self._request, None, None, hit_only=True)
        if hit.outcome.cached or error_detail(hit.outcome.trailing).reason == Reason.GRANT_REVOKED:
            self._on_done(hit)
        elif outage is not None:
            self._skip(outage)
        elif not self._wait(deferred_s):
            self._finish(SourceState.RATE_LIMITED, Reason.RATE_LIMITED, "the peer limits the rate of calls", deferred_s)

    def cancel(self) -> None:
        """Cancel the call. Nothing is delivered afterwards."""
        self._finished = True
        if self._timer is not None:
            self._timer.cancel()
        if self._call is not None:
            self._call.cancel()

    def _send(self) -> None:
        self._timer = None
        self._returns = self._availability.returns(self._peer)
        self._budget_s = max(self._deadline - self._now(), 0.0)
        call = self._channel.start(self._method, self._request, self._budget_s, None, detach=self._method.cacheable)
        self._call = call
        if call.done():
            self._on_done(call)
        else:
            call.add_done_callback(self._on_done)

    def _wait(self, seconds: float) -> bool:
        """Schedule a retry after a wait. Returns false if the budget is too short for it."""
        seconds = max(seconds, MIN_RETRY_WAIT_S)
        if self._now() + seconds + MIN_REMAINING_S >= self._deadline:
            return False
        self._full_budget = False
        self._timer = self._loop.call_later(seconds, self._send)
        return True

    def _on_done(self, call: FlowCall) -> None:
        if self._finished:
            return
        try:
            self._classify(call)
        except Exception as e:  # noqa: BLE001 - its message may hold rows, so only its type is logged
            LOGGER.error("could not process the answer of %s: %s", self._peer.name, type(e).__name__)  # noqa: TRY400
            self._finish(SourceState.FAILED, Reason.INTERNAL, "could not process the answer; the log has the cause")

    def _classify(self, call: FlowCall) -> None:
        message: Any = None
        if call.outcome.ok:
            try:
                message = call.message()
            except AioRpcError:  # not decodable: the outcome is now an error
                message = None
        outcome = call.outcome
        detail = error_detail(outcome.trailing)
        code = outcome.code.name
        conclusive = self._full_budget or self._budget_s >= MIN_CONCLUSIVE_S
        classification = classify(code, detail.reason, local=detail.local, verb=self._verb, conclusive=conclusive)
        if classification.state is SourceState.RATE_LIMITED and detail.retry_after_s is not None:
            self._availability.defer(self._peer, detail.retry_after_s)
            if self._wait(detail.retry_after_s):
                return
        text = "" if outcome.ok else _message_text(outcome, classification.reason)
        step = next_step(classification.reason, classification.state, self._peer.name, self._peer.user)
        if detail.local and detail.remedy is not None:
            step = step._replace(remedy=detail.remedy)
        if classification.unreachable:
            outage = PeerSignal(
                kind=SignalKind.OFFLINE,
                peer=self._peer.name,
                reason=classification.reason,
                message=text,
                next_step=step.text,
                remedy=step.remedy,
            )
            self._availability.failed(self._peer, self._returns, outage, self._span)
        state = SourceState.CACHED if outcome.cached else classification.state
        self._finish(state, classification.reason, text, detail.retry_after_s, message, outcome, step=step)

    def _skip(self, outage: PeerSignal) -> None:
        retry_s = None
        if outage.retry_at_us is not None:
            retry_s = max(outage.retry_at_us - self._now_us(), 0) / MICROSECONDS
        step = NextStep(outage.next_step, outage.remedy)
        self._finish(SourceState.SKIPPED, outage.reason, outage.message, retry_s, step=step)

    def _finish(
        self,
        state: SourceState,
        reason: str,
        text: str,
        retry_after_s: float | None = None,
        message: Any = None,
        outcome: Outcome | None = None,
        *,
        step: NextStep | None = None,
    ) -> None:
        self._finished = True
        self._call = None
        if step is None:
            step = next_step(reason, state, self._peer.name, self._peer.user)
        report = SourceReport(
            source=source_of(self._peer.name),
            state=state,
            reason=str(reason),
            message=text,
            next_step=step.text,
            remedy=step.remedy,
            latency_ms=(self._now() - self._started) * 1e3,
            retry_after_s=retry_after_s,
        )
        cached, age_s = (outcome.cached, outcome.age_s) if outcome is not None else (False, 0.0)
        self._deliver(report, message, cached, age_s)


def _message_text(outcome: Outcome, reason: str) -> str:
    text = printable(outcome.details or "no details")
    return text if reason else f"{text} ({outcome.code.name})"
