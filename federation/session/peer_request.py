"""One peer asked within one request: by the cache, the chain, or not at all. No task: gRPC's own callbacks drive it."""

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
from federation.client.chain.methods import METHODS, Method
from federation.client.peers.peer import Peer
from federation.clock import MICROSECONDS, Clock
from federation.errors import Reason
from federation.sanitize import printable
from federation.session.availability.availability import Outage, PeerAvailability
from federation.session.classification import LEAST_PROOF_S, NextStep, next_step, verdict_of
from federation.session.results import SourceReport, SourceState
from federation.session.sources import source_of
from federation.wire.status import error_detail
from federation.wire.verbs import VERB_BY_NAME

__all__ = ["PeerRequest", "RequestContext", "method_for"]

LOGGER: Final = logging.getLogger(__name__)
LEAST_WAIT_S: Final = 0.05
"""Between two tries at a peer that asks for patience without saying how much."""
LEAST_LEFT_S: Final = 0.01
"""What must be left of the budget after the wait for one more try to make sense."""
Deliver = Callable[[SourceReport, Any, bool, float], None]
"""Takes the report, and with an answer the message, whether it was kept, and its age in seconds."""


def method_for(verb: str) -> Method:
    """Return the method of a verb."""
    return METHODS[VERB_BY_NAME[verb].path]


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What all sources of one request share. `deadline` is that of the peers, monotonic."""

    verb: str
    deadline: float
    clock: Clock
    span: Span


class PeerRequest:
    """Asks one peer and delivers exactly once, unless it is cancelled before."""

    def __init__(
        self,
        occasion: RequestContext,
        peer: Peer,
        channel: AioChannel,
        availability: PeerAvailability,
        request: Message,
        deliver: Deliver,
    ) -> None:
        self._peer, self._channel, self._availability = peer, channel, availability
        self._request, self._verb, self._method = request, occasion.verb, method_for(occasion.verb)
        self._now, self._now_us = occasion.clock.monotonic, occasion.clock.now_us
        self._began, self._deadline = self._now(), occasion.deadline
        self._span, self._deliver = occasion.span, deliver
        self._loop = asyncio.get_running_loop()
        self._call: FlowCall | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._returns = 0
        self._whole = True
        self._given_s = 0.0
        self._over = False

    def start(self) -> None:
        """Answer at once where that can be; otherwise the answer comes by the loop."""
        outage = self._availability.outage(self._peer, self._span)
        deferred_s = self._availability.deferred_s(self._peer)
        if outage is None and not deferred_s:
            self._send()
            return
        kept = self._channel.start(self._method, self._request, None, None, hit_only=True)
        if kept.outcome.cached or error_detail(kept.outcome.trailing).reason == Reason.GRANT_REVOKED:
            self._settle(kept)
        elif outage is not None:
            self._skip(outage)
        elif not self._wait(deferred_s):
            self._finish(SourceState.RATE_LIMITED, Reason.RATE_LIMITED, "asked to be asked later", deferred_s)

    def cancel(self) -> None:
        """End the call under way; nothing is delivered any more."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._call is not None:
            self._call.cancel()

    def _send(self) -> None:
        self._timer = None
        self._returns = self._availability.returns(self._peer)
        self._given_s = max(self._deadline - self._now(), 0.0)
        call = self._channel.start(
            self._method, self._request, self._given_s, None, detach=VERB_BY_NAME[self._verb].cacheable
        )
        self._call = call
        if call.done():
            self._settle(call)
        else:
            call.add_done_callback(self._settle)

    def _wait(self, seconds: float) -> bool:
        """Try again after a while, if the budget lasts that long."""
        seconds = max(seconds, LEAST_WAIT_S)
        if self._now() + seconds + LEAST_LEFT_S >= self._deadline:
            return False
        self._whole = False
        self._timer = self._loop.call_later(seconds, self._send)
        return True

    def _settle(self, call: FlowCall) -> None:
        if self._over:
            return
        try:
            self._judge(call)
        except Exception as e:  # noqa: BLE001 - one source's fault; its words may hold rows, so the log has the kind alone
            LOGGER.error("the answer of %s could not be taken: %s", self._peer.name, type(e).__name__)  # noqa: TRY400
            self._finish(SourceState.FAILED, Reason.INTERNAL, "the answer could not be taken; the log says more")

    def _judge(self, call: FlowCall) -> None:
        message: Any = None
        if call.outcome.ok:
            try:
                message = call.message()
            except AioRpcError:  # unreadable: the outcome says so from here on
                message = None
        outcome = call.outcome
        detail = error_detail(outcome.trailing)
        code = outcome.code.name
        proven = self._whole or self._given_s >= LEAST_PROOF_S
        verdict = verdict_of(code, detail.reason, local=detail.local, verb=self._verb, proven=proven)
        if verdict.state is SourceState.RATE_LIMITED and detail.retry_after_s is not None:
            self._availability.defer(self._peer, detail.retry_after_s)
            if self._wait(detail.retry_after_s):
                return
        text = "" if outcome.ok else _words(outcome, verdict.reason)
        step = next_step(verdict.reason, verdict.state, self._peer.name, self._peer.user)
        if detail.local and detail.remedy is not None:
            step = step._replace(remedy=detail.remedy)
        if verdict.away:
            outage = Outage(reason=verdict.reason, message=text, next_step=step.text, remedy=step.remedy)
            self._availability.failed(self._peer, self._returns, outage, self._span)
        state = SourceState.CACHED if outcome.cached else verdict.state
        self._finish(state, verdict.reason, text, detail.retry_after_s, message, outcome, step=step)

    def _skip(self, outage: Outage) -> None:
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
        self._over = True
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
            latency_ms=(self._now() - self._began) * 1e3,
            retry_after_s=retry_after_s,
        )
        cached, age_s = (outcome.cached, outcome.age_s) if outcome is not None else (False, 0.0)
        self._deliver(report, message, cached, age_s)


def _words(outcome: Outcome, reason: str) -> str:
    text = printable(outcome.details or "no details")
    return text if reason else f"{text} ({outcome.code.name})"
