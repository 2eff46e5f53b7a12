"""Represents caches, flights and flows as values, so that equal states have equal values."""

from collections.abc import Callable, Hashable
from math import inf
from typing import Any

from federation.cache.entries import DeliveryDecision, FetchToken, Key
from federation.cache.response_cache import Partition
from federation.client.chain.flow import Call, Flight, Flow, Outcome

NEVER = 1e5
"""Later than every explored time."""


class CanonicalNames:
    """Names objects by the order in which they are met, and represents flows as values.

    Times are relative to now, so that equal states at different times have equal values.
    """

    PLAIN = frozenset({int, bool, float, str, bytes, Key, DeliveryDecision, type(None)})

    def __init__(self, partition: Partition[Flight], passed_s: float, read: Callable[[bytes, float], Hashable]) -> None:
        self._partition, self._passed_s, self._read = partition, passed_s, read
        self._flights: dict[int, int] = {}
        self._met: list[Flight] = []

    def age(self, instant: float) -> float:
        """Return a time relative to now; infinity for a time that is never reached."""
        return instant - self._passed_s if instant < NEVER else inf

    def answer(self, body: bytes) -> Hashable:
        """Return the content of an answer, relative to now and to the known version."""
        return self._read(body, self._passed_s) if body else None

    def buckets(self, buckets: Any) -> Hashable:
        """Return entries and flights by resource."""
        found = []
        for resource, bucket in sorted(buckets.items()):
            entries = tuple(
                (key, self.answer(entry.body), self.age(entry.elapsed), entry.life)
                for key, entry in bucket._entries.items()
            )
            flights = tuple((key, self.flight(flight)) for key, flight in bucket.flights.items())
            if entries or flights:
                found.append((resource, entries, flights))
        return tuple(found)

    def flight(self, flight: Flight) -> int:
        """Return the number of a flight."""
        if id(flight) not in self._flights:
            self._flights[id(flight)] = len(self._met)
            self._met.append(flight)
        return self._flights[id(flight)]

    def flights(self) -> Hashable:
        """Return the state of every flight that was met."""
        return tuple(
            (
                self.age(f.deadline),
                self.age(f.sent),
                f._waiters,
                f._done,
                f._abandoned,
                f._flow is None,
                len(f._subscribers),
            )
            for f in self._met
        )

    def flow(self, flow: Flow) -> Hashable:
        """Return the positions and local variables of a suspended generator and its subgenerators."""
        frames: list[Hashable] = []
        generator: Any = flow
        while generator is not None and getattr(generator, "gi_frame", None) is not None:
            frame = generator.gi_frame
            remembered = tuple([self._value(value) for _, value in sorted(frame.f_locals.items())])
            frames.append((frame.f_code.co_name, frame.f_lasti, remembered))
            generator = generator.gi_yieldfrom
        return tuple(frames)

    def _value(self, value: Any) -> Hashable:
        if type(value) in self.PLAIN:
            return self.age(value) if type(value) is float else value  # type: ignore[no-any-return]
        if isinstance(value, Flight):
            return self.flight(value)
        if isinstance(value, Call):
            return (value.verb, self.age(value.deadline))
        if isinstance(value, FetchToken):
            may_insert = self._partition._bucket_for_insert(value) is not None
            return (value.key, self.age(value.elapsed), may_insert, self._partition.decision(value))
        if isinstance(value, Outcome):
            return (value.code.name, self.answer(value.body))
        if isinstance(value, tuple):
            return tuple([self._value(part) for part in value])
        return type(value).__name__
