"""The cache in the chain: answers from memory, one call for all who ask the same, and a look at every delivery."""

from collections.abc import Generator, Mapping
from functools import partial
from typing import Final, Protocol, TypeAlias, assert_never

import grpc
from google.protobuf.message import DecodeError, Message

from federation.cache.response_cache import (
    DeliveryDecision,
    FetchToken,
    Flushed,
    Hit,
    InvalidationReason,
    Key,
    Miss,
    Partition,
)
from federation.client.chain.flow import Call, Flight, Flow, Join, Outcome, Proceed, refused
from federation.clock import SYSTEM_CLOCK, Clock
from federation.errors import Reason, Refusal
from federation.v1 import federation_pb2 as pb
from federation.wire.metadata import LEASE_MS, Metadata, first
from federation.wire.requests import query_hash
from federation.wire.status import error_detail

__all__ = ["CACHEABLE_VERBS", "UNCACHED_VERBS", "CachingInterceptor", "Fate", "cut", "lease_s"]

Judged: TypeAlias = Generator[Call | Join, Outcome, tuple[Outcome, DeliveryDecision]]
"""A flow that also says what may be done with its outcome."""

CACHEABLE_VERBS: Final[Mapping[str, type[Message]]] = {"list": pb.ListResponse, "get": pb.GetResponse}
"""The verbs whose answers are kept and shared, and what an answer must be readable as. No other verb's ever is."""

UNCACHED_VERBS: Final = frozenset({"watch"})
"""Verbs whose messages are delivered one by one while the call lasts: its end is neither judged nor asked for again."""

_CAUSE_OF: Final[Mapping[str, InvalidationReason]] = {
    Reason.GRANT_REVOKED: InvalidationReason.GRANT_REVOKED,
    Reason.GRANT_INVALID: InvalidationReason.REFUSED,
    Reason.CERTIFICATE_INVALID: InvalidationReason.REFUSED,
}
"""What a peer's refusal says of everything else that was fetched under the grant."""

_LEADERS_END: Final = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
"""How a shared call ends when its leader's budget ran out or its leader was interrupted."""
_LEAST_S: Final = 0.01
"""Seconds that must be left for asking again to be worth a call."""
_LONGEST_LEASE_DIGITS: Final = 9


class Fate(Protocol):
    """What became of the peer's grant, beyond what the cache needs to know. A `Peer` has one."""

    @property
    def refusal(self) -> Outcome | None:
        """The answer to every call once the peer has revoked the grant; `None` before."""
        ...

    def revoked(self, reason: str) -> None:
        """Hear from the peer itself, in its words, that it has revoked the grant."""
        ...


class _Open:
    refusal: Outcome | None = None

    def revoked(self, reason: str) -> None:
        pass


class CachingInterceptor:
    """One peer's part of the cache.

    A caller gets a hit at once. Otherwise it waits for the flight of its query, which it starts if nobody has; the
    flight belongs to the cache, and ends when nobody waits for it. Every other call passes through, but is looked
    at when it comes back: what was asked under a grant that was revoked meanwhile is delivered to nobody.
    """

    def __init__(self, partition: Partition[Flight], clock: Clock = SYSTEM_CLOCK, fate: Fate | None = None) -> None:
        self._partition = partition
        self._now = clock.monotonic
        self._fate: Fate = _Open() if fate is None else fate

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Return an answer that may be delivered at this moment, or the refusal that says why there is none."""
        refusal = self._fate.refusal
        if refusal is not None and call.verb not in UNCACHED_VERBS:
            return refusal
        if call.hit_only:
            found = self._partition.peek(_key(call)) if call.verb in CACHEABLE_VERBS else None
            return _hit(found) if found else _not_kept()
        attempt = self._shared if call.verb in CACHEABLE_VERBS else self._alone
        outcome, verdict = yield from attempt(proceed, call)
        if verdict is DeliveryDecision.ASK_AGAIN and self._now() < call.deadline:
            outcome, verdict = yield from attempt(proceed, call)
        match verdict:
            case DeliveryDecision.DELIVER:
                return outcome
            case DeliveryDecision.REFUSE:
                return _revoked()
            case DeliveryDecision.ASK_AGAIN:
                return _changing(in_time=self._now() < call.deadline)
            case _:
                assert_never(verdict)

    def _alone(self, proceed: Proceed, call: Call) -> Judged:
        ticket = self._partition.ticket(_key(call))
        outcome = yield from proceed(call)
        self._invalidate_on_refusal(call, outcome)
        return outcome, DeliveryDecision.DELIVER if call.verb in UNCACHED_VERBS else self._judge(outcome, ticket)

    def _shared(self, proceed: Proceed, call: Call) -> Judged:
        key = _key(call)
        launch = partial(self._launch, proceed, call)
        found = self._partition.look(key, lambda flight: flight.join(call.deadline), launch)
        if isinstance(found, Hit):
            return _hit(found), DeliveryDecision.DELIVER
        outcome = yield from self._wait(call, found)
        if self._was_cut_short(call, found, outcome) or _joined_too_late(found, outcome):
            found = self._partition.look(key, lambda flight: flight.join(call.deadline, patient=True), launch)
            if isinstance(found, Hit):
                return _hit(found), DeliveryDecision.DELIVER
            outcome = yield from self._wait(call, found)
        return outcome, self._judge(outcome, found.ticket)

    def _wait(self, call: Call, miss: Miss[Flight]) -> Flow:
        flight, detached = miss.flight, False
        try:
            outcome = yield Join(flight, call.deadline)
            detached = self._may_detach(call, flight, outcome) and self._partition.detach(flight)
        finally:
            if not detached and flight.leave():  # a detached flight keeps this waiter's seat
                self._partition.forget(miss.ticket, flight)
                flight.abort()
        return outcome

    def _may_detach(self, call: Call, flight: Flight, outcome: Outcome) -> bool:
        return call.detach and outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED and not flight.landed

    def _was_cut_short(self, call: Call, miss: Miss[Flight], outcome: Outcome) -> bool:
        """Tell whether the flight ended for its leader's reasons, with time left for this follower."""
        return not miss.leads and outcome.code in _LEADERS_END and call.deadline - self._now() >= _LEAST_S

    def _launch(self, proceed: Proceed, call: Call, ticket: FetchToken) -> Flight:
        deadline = 2 * call.deadline - self._now() if call.detach else call.deadline
        flight = Flight(deadline, ticket.epoch, ticket.elapsed)
        flight.join(call.deadline)
        flight.launch(self._fill(proceed, call._replace(deadline=deadline) if call.detach else call, ticket, flight))
        return flight

    def _fill(self, proceed: Proceed, call: Call, ticket: FetchToken, flight: Flight) -> Flow:
        try:
            outcome = yield from proceed(call)
            self._keep(call, ticket, outcome)
        finally:
            self._partition.forget(ticket, flight)
        self._invalidate_on_refusal(call, outcome)
        return outcome

    def _keep(self, call: Call, ticket: FetchToken, outcome: Outcome) -> None:
        lease = lease_s(outcome.trailing) if outcome.ok else 0.0
        if lease and _is_readable(call.verb, outcome.body):
            filled_by = call.trace.traceparent() if call.trace is not None else ""
            self._partition.insert(ticket, outcome.body, lease, filled_by)

    def _invalidate_on_refusal(self, call: Call, outcome: Outcome) -> None:
        """Flush the grant if the peer itself says that it is not valid."""
        if outcome.ok:
            return
        detail = error_detail(outcome.trailing)
        cause = None if detail.local else _CAUSE_OF.get(detail.reason)
        if cause is InvalidationReason.GRANT_REVOKED:
            self._fate.revoked(outcome.details)
        if cause is not None:
            cut(self._partition.flush(cause, call.grant_id))

    def _judge(self, outcome: Outcome, ticket: FetchToken) -> DeliveryDecision:
        return self._partition.verdict(ticket) if outcome.ok else DeliveryDecision.DELIVER


def cut(flushed: Flushed[Flight]) -> int:
    """Fail at once whatever was under way and may not be delivered any more; return how many calls that ended."""
    return sum(flight.cut(_revoked()) for flight in flushed.cut)


def _joined_too_late(miss: Miss[Flight], outcome: Outcome) -> bool:
    """Tell whether a caller joined a shared call after the lease of its answer had ended.

    As a cache entry, the answer would have expired before this caller's look-up, and the peer may have revoked the
    grant since: see promise 1 of docs/REVOCATION.md. A call that is
    joined next was sent after the look-up, because this one held its place until it ended.
    """
    if miss.leads or not outcome.ok:
        return False
    return 0 < lease_s(outcome.trailing) <= miss.ticket.elapsed - miss.flight.sent


def lease_s(trailing: Metadata) -> float:
    """Return for how many seconds the peer lets an answer be kept; 0 where it does not say so in plain digits."""
    value = first(trailing, LEASE_MS) or ""
    if value.isascii() and value.isdigit() and len(value) <= _LONGEST_LEASE_DIGITS:
        return int(value) / 1000
    return 0.0


def _key(call: Call) -> Key:
    return Key(call.grant_id, call.verb, call.resource, query_hash(call.request))


def _hit(hit: Hit) -> Outcome:
    return Outcome(grpc.StatusCode.OK, hit.body, cached=True, age_s=hit.age_s, filled_by=hit.filled_by)


def _not_kept() -> Outcome:
    return refused(Refusal(Reason.PEER_UNREACHABLE, "no answer is kept, and the peer was not to be asked"))


def _is_readable(verb: str, body: bytes) -> bool:
    try:
        CACHEABLE_VERBS[verb].FromString(body)
    except DecodeError:
        return False
    return True


def _revoked() -> Outcome:
    return refused(Refusal(Reason.GRANT_REVOKED, "the grant was revoked while the call was under way"))


def _changing(*, in_time: bool) -> Outcome:
    if in_time:
        text = "the grant changed twice while the call was under way"
        return refused(Refusal(Reason.GRANT_INVALID, text, retry_after_s=0.0))
    return refused(Refusal(Reason.PEER_TIMEOUT, "the grant changed while the call was under way, and its budget is up"))
