"""The timing of a peer's watch. Pure: the caller supplies clock readings and random numbers.

A watch is `off` until it starts, `connecting` until the peer confirms its stream, then `armed`. A lost stream is
redialled after a pause that grows. While the circuit is open, the watch is `off` and does not dial. Before a stream
reaches its maximum age, a new one is armed and then the old one ended.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from federation import backoff

_WINDOW_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """The settings of a watch, in seconds and events."""

    heartbeat_interval_s: float = 10.0
    """Interval of the heartbeats of each side."""
    missed_heartbeats: int = 3
    """Number of intervals without a message after which the stream is considered lost."""
    arm_timeout_s: float = 5.0
    """Time in which the peer must confirm a new stream."""
    max_stream_age_s: float = 480.0
    """Greatest age of a stream; it is below the age at which the peer closes a connection (10 min)."""
    first_pause_s: float = 0.5
    """Pause before the first redial; it doubles while redials fail."""
    max_pause_s: float = 30.0
    unsupported_pause_s: float = 300.0
    """Pause after a peer answered UNIMPLEMENTED."""
    circuit_poll_s: float = 5.0
    """Interval at which a watch checks an open circuit, beside being woken by its transitions."""
    close_timeout_s: float = 2.0
    """Time in which the peer must end a stream that this side has closed."""
    max_events_per_s: int = 100
    """Messages of a peer in one second beyond which the cache is suspended until the peer is quiet."""

    @property
    def silence_timeout_s(self) -> float:
        """Time without a message after which a stream is considered lost."""
        return self.heartbeat_interval_s * self.missed_heartbeats

    def move_after_s(self, chance: float) -> float:
        """Return the age at which to replace a stream, with jitter; `chance` lies in [0, 1)."""
        return self.max_stream_age_s * (1.0 - 0.15 * chance)


class RedialBackoff:
    """The pause before the next attempt of a watch: growing, with jitter."""

    def __init__(self, settings: WatchSettings, chance: Callable[[], float]) -> None:
        self._settings, self._chance = settings, chance
        self._redials = backoff.Backoff(settings.first_pause_s, settings.max_pause_s, chance=chance)

    def after_stream(self, armed_for_s: float) -> float:
        """Return the pause after a stream that was armed this long; one that lasted a heartbeat resets the backoff."""
        if armed_for_s >= self._settings.heartbeat_interval_s:
            self._redials.reset()
        return self.after_failure()

    def after_failure(self) -> float:
        """Return the pause after an attempt that was not confirmed."""
        return self._redials.failed()

    def after_unsupported(self) -> float:
        """Return the pause after a peer answered UNIMPLEMENTED."""
        return backoff.shortened(self._settings.unsupported_pause_s, self._chance())


class EventRate:
    """Counts a peer's messages. A flood begins when a second holds too many, and ends after a quiet second."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._began = 0.0
        self._count = 0
        self.flooded = False

    @property
    def pause_s(self) -> float:
        """Pause between two messages of a flood, which limits the rate of reading."""
        return _WINDOW_S / self._most

    def record(self, now: float) -> bool:
        """Count one message at a monotonic instant; return whether it belongs to a flood."""
        if now - self._began >= _WINDOW_S:
            if self._count <= self._most // 2 or now - self._began >= 2 * _WINDOW_S:
                self.flooded = False
            self._began, self._count = now, 0
        self._count += 1
        if self._count > self._most:
            self.flooded = True
        return self.flooded

    def reset(self) -> None:
        """Reset the counter: the stream has ended."""
        self._count, self.flooded = 0, False
