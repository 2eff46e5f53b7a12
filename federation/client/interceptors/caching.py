"""The cache in the chain: answers from memory, one flight for identical calls, and a check at every delivery."""

from collections.abc import Generator, Mapping
from functools import partial
from typing import Final, Protocol, TypeAlias, assert_never

import grpc
from google.protobuf.message import DecodeError, Message

from federation.cache.entries import DeliveryDecision, FetchToken, InvalidationReason, Key
from federation.cache.response_cache import Flushed, Hit, Miss, Partition
from federation.client.chain.flow import Call, Flight, Flow, Join, Outcome, Proceed, refused
from federation.clock import Clock
from federation.errors import Reason, Refusal
from federation.wire.metadata import LEASE_MS, Metadata, first
from federation.wire.requests import query_hash
from federation.wire.status import error_detail
from federation.wire.verbs import STREAMING_VERBS, VERBS

DecidedFlow: TypeAlias = Generator[Call | Join, Outcome, tuple[Outcome, DeliveryDecision]]
"""A flow that also returns the decision on its outcome."""

CACHEABLE_VERBS: Final[Mapping[str, type[Message]]] = {verb.name: verb.response for verb in VERBS if verb.cacheable}
"""The verbs whose answers are cached and shared, each with the message that an answer must decode as."""

_REASON_OF: Final[Mapping[str, InvalidationReason]] = {
    Reason.GRANT_REVOKED: InvalidationReason.GRANT_REVOKED,
    Reason.GRANT_INVALID: InvalidationReason.REFUSED,
    Reason.CERTIFICATE_INVALID: InvalidationReason.REFUSED,
}
"""The reason of the flush that a peer's refusal causes."""

_LEADER_CODES: Final = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
"""Codes of a shared call whose leader's budget ran out or whose leader was interrupted."""
_MIN_RETRY_S: Final = 0.01
"""Seconds that must be left for a retry."""
_MAX_LEASE_DIGITS: Final = 9


class RevocationSink(Protocol):
    """The receiver of revocations that the peer reports in an answer; a `Peer` is one."""

    @property
    def refusal(self) -> Outcome | None:
        """The answer to every call once the peer has revoked the grant; `None` before."""
        ...

    def on_revoked(self, reason: str) -> None:
        """Handle the peer's own message that it has revoked the grant."""
        ...


class CachingInterceptor:
    """One peer's partition of the cache.

    A caller gets a hit at once. Otherwise it waits for the flight of its query, which it starts if there is none; the
    flight belongs to the cache, and is cancelled when the last waiter leaves. Every other call passes through, but its
    answer is checked as well: an answer under a grant that was revoked meanwhile is delivered to no caller.
    """

    def __init__(self, partition: Partition[Flight], clock: Clock, sink: RevocationSink) -> None:
        self._partition, self._now, self._sink = partition, clock.monotonic, sink

    def intercept(self, proceed: Proceed, call: Call) -> Flow:
        """Return an answer that may be delivered at this moment, or a refusal with the reason."""
        if call.verb in STREAMING_VERBS:  # its messages are delivered during the call, so its end is not checked
            outcome = yield from proceed(call)
            self._invalidate_on_refusal(call, outcome)
            return outcome
        refusal = self._sink.refusal
        if refusal is not None:
            return refusal
        if call.hit_only:
            found = self._partition.peek(_key(call)) if call.verb in CACHEABLE_VERBS else None
            return _hit(found) if found else _not_cached()
        attempt = self._shared if call.verb in CACHEABLE_VERBS else self._uncached
        outcome, decision = yield from attempt(proceed, call)
        if decision is DeliveryDecision.RETRY and self._now() < call.deadline:
            outcome, decision = yield from attempt(proceed, call)
        match decision:
            case DeliveryDecision.DELIVER:
                return outcome
            case DeliveryDecision.REFUSE:
                return _revoked()
            case DeliveryDecision.RETRY:
                return _grant_changed(in_time=self._now() < call.deadline)
            case _:
                assert_never(decision)

    def _uncached(self, proceed: Proceed, call: Call) -> DecidedFlow:
        token = self._partition.fetch_token(_key(call))
        outcome = yield from proceed(call)
        self._invalidate_on_refusal(call, outcome)
        return outcome, self._check_epoch(outcome, token)

    def _shared(self, proceed: Proceed, call: Call) -> DecidedFlow:
        key = _key(call)
        launch = partial(self._launch, proceed, call)
        found = self._partition.lookup(key, lambda flight: flight.join(call.deadline), launch)
        if isinstance(found, Hit):
            return _hit(found), DeliveryDecision.DELIVER
        outcome = yield from self._wait(call, found)
        if self._ended_for_leader(call, found, outcome) or _joined_too_late(found, outcome):
            found = self._partition.lookup(key, lambda flight: flight.join(call.deadline, full_budget=True), launch)
            if isinstance(found, Hit):
                return _hit(found), DeliveryDecision.DELIVER
            outcome = yield from self._wait(call, found)
        return outcome, self._check_epoch(outcome, found.token)

    def _wait(self, call: Call, miss: Miss[Flight]) -> Flow:
        flight, detached = miss.flight, False
        try:
            outcome = yield Join(flight, call.deadline)
            detached = self._may_detach(call, flight, outcome) and self._partition.detach(flight)
        finally:
            if not detached and flight.remove_waiter():  # a detached flight still counts this waiter
                self._partition.remove_flight(miss.token, flight)
                flight.cancel()
        return outcome

    def _may_detach(self, call: Call, flight: Flight, outcome: Outcome) -> bool:
        return call.detach and outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED and not flight.done

    def _ended_for_leader(self, call: Call, miss: Miss[Flight], outcome: Outcome) -> bool:
        """Tell whether the flight ended for its leader's reasons, with time left for this follower."""
        return not miss.leads and outcome.code in _LEADER_CODES and call.deadline - self._now() >= _MIN_RETRY_S

    def _launch(self, proceed: Proceed, call: Call, token: FetchToken) -> Flight:
        deadline = 2 * call.deadline - self._now() if call.detach else call.deadline
        flight = Flight(deadline, token.elapsed)
        flight.join(call.deadline)
        flight.set_flow(self._fill(proceed, call._replace(deadline=deadline) if call.detach else call, token, flight))
        return flight

    def _fill(self, proceed: Proceed, call: Call, token: FetchToken, flight: Flight) -> Flow:
        try:
            outcome = yield from proceed(call)
            self._insert(call, token, outcome)
        finally:
            self._partition.remove_flight(token, flight)
        self._invalidate_on_refusal(call, outcome)
        return outcome

    def _insert(self, call: Call, token: FetchToken, outcome: Outcome) -> None:
        lease = lease_s(outcome.trailing) if outcome.ok else 0.0
        if lease and _is_readable(call.verb, outcome.body):
            filled_by = call.trace.traceparent() if call.trace is not None else ""
            self._partition.insert(token, outcome.body, lease, filled_by)

    def _invalidate_on_refusal(self, call: Call, outcome: Outcome) -> None:
        """Flush the grant if the peer itself reports that it is not valid."""
        if outcome.ok:
            return
        detail = error_detail(outcome.trailing)
        reason = None if detail.local else _REASON_OF.get(detail.reason)
        if reason is InvalidationReason.GRANT_REVOKED:
            self._sink.on_revoked(outcome.details)
        if reason is not None:
            fail_in_flight(self._partition.flush(reason, call.grant_id))

    def _check_epoch(self, outcome: Outcome, token: FetchToken) -> DeliveryDecision:
        return self._partition.decision(token) if outcome.ok else DeliveryDecision.DELIVER


def fail_in_flight(flushed: Flushed[Flight]) -> None:
    """Fail at once the flights of a flush that must not be delivered."""
    for flight in flushed.to_fail:
        flight.fail(_revoked())


def _joined_too_late(miss: Miss[Flight], outcome: Outcome) -> bool:
    """Tell whether a caller joined a shared call after the lease of its answer had ended.

    As a cache entry, the answer would have expired before this caller's look-up, and the peer may have revoked the
    grant since: see promise 1 of docs/REVOCATION.md. The caller may join the next shared call: that one was sent after
    the look-up, when this one had ended.
    """
    if miss.leads or not outcome.ok:
        return False
    return 0 < lease_s(outcome.trailing) <= miss.token.elapsed - miss.flight.sent


def lease_s(trailing: Metadata) -> float:
    """Return for how many seconds the peer permits caching of an answer; 0 if the header is absent or malformed."""
    value = first(trailing, LEASE_MS) or ""
    if value.isascii() and value.isdigit() and len(value) <= _MAX_LEASE_DIGITS:
        return int(value) / 1000
    return 0.0


def _key(call: Call) -> Key:
    return Key(call.grant_id, call.verb, call.resource, query_hash(call.request))


def _hit(hit: Hit) -> Outcome:
    return Outcome(grpc.StatusCode.OK, hit.body, cached=True, age_s=hit.age_s, filled_by=hit.filled_by)


def _not_cached() -> Outcome:
    return refused(Refusal(Reason.PEER_UNREACHABLE, "no answer is cached, and the call was limited to the cache"))


def _is_readable(verb: str, body: bytes) -> bool:
    try:
        CACHEABLE_VERBS[verb].FromString(body)
    except DecodeError:
        return False
    return True


def _revoked() -> Outcome:
    return refused(Refusal(Reason.GRANT_REVOKED, "the grant was revoked while the call was under way"))


def _grant_changed(*, in_time: bool) -> Outcome:
    if in_time:
        text = "the grant changed twice while the call was under way"
        return refused(Refusal(Reason.GRANT_INVALID, text, retry_after_s=0.0))
    return refused(Refusal(Reason.PEER_TIMEOUT, "the grant changed during the call, and its deadline passed"))
