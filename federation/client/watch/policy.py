"""How the watch of a peer behaves in time. Pure: the caller brings the clock's readings and the chance.

A watch is `off` until it begins, `connecting` until the peer confirms its stream, then `armed`. A stream that is lost
is redialled after a pause that grows. While the circuit is open the watch rests: `off`, no dial. Before a stream gets
old it moves: the new one is armed before the old one ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Backoff", "EventRate", "WatchSettings"]

_WINDOW_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """The watch in seconds and events."""

    heartbeat_interval_s: float = 10.0
    """How often each side says that it is there."""
    silent_beats: int = 3
    """Beats without a word after which the peer counts as gone."""
    arm_s: float = 5.0
    """How long a new stream may take to be confirmed."""
    move_s: float = 480.0
    """Greatest age of a stream: a new one takes over well before the peer ends its connection (10 min)."""
    first_pause_s: float = 0.5
    """Pause before the first redial; it doubles while redials fail."""
    longest_pause_s: float = 30.0
    unoffered_pause_s: float = 300.0
    """Pause after a peer said that it knows no watches."""
    rest_s: float = 5.0
    """How often a watch that rests looks whether the circuit has closed, beside being told."""
    close_timeout_s: float = 2.0
    """How long the peer may take to end a stream that this side has closed."""
    most_events: int = 100
    """Messages of a peer in one second beyond which nothing of it is kept until it is quiet."""

    @property
    def patience_s(self) -> float:
        """Silence after which a stream is given up."""
        return self.heartbeat_interval_s * self.silent_beats

    def move_after_s(self, chance: float) -> float:
        """Return the age at which a stream moves, a little different for each; `chance` lies in [0, 1)."""
        return self.move_s * (1.0 - 0.15 * chance)


class Backoff:
    """How long to pause before the next attempt: longer each time, never the same for two gateways."""

    def __init__(self, settings: WatchSettings, chance: Callable[[], float]) -> None:
        self._settings, self._chance = settings, chance
        self._failures = 0

    def lost(self, armed_for_s: float) -> float:
        """Return the pause after a stream that was armed so long. A stream that proved itself starts anew."""
        if armed_for_s >= self._settings.heartbeat_interval_s:
            self._failures = 0
        return self.failed()

    def failed(self) -> float:
        """Return the pause after an attempt that never armed."""
        settings = self._settings
        whole = min(settings.first_pause_s * 2.0 ** min(self._failures, 32), settings.longest_pause_s)
        self._failures += 1
        return whole * (0.5 + 0.5 * self._chance())

    def unsupported_retry_s(self) -> float:
        """Return the pause after the peer said that it knows no watches."""
        return self._settings.unoffered_pause_s * (0.5 + 0.5 * self._chance())


class EventRate:
    """Counts what a peer sends. A flood begins when a second holds too much, and ends after a quiet second."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._began = 0.0
        self._count = 0
        self.flooded = False

    @property
    def pause_s(self) -> float:
        """How long to wait between two messages of a flood, so that reading them takes no more than its share."""
        return _WINDOW_S / self._most

    def note(self, now: float) -> bool:
        """Count one message at a monotonic instant; return whether this is a flood."""
        if now - self._began >= _WINDOW_S:
            if self._count <= self._most // 2 or now - self._began >= 2 * _WINDOW_S:
                self.flooded = False
            self._began, self._count = now, 0
        self._count += 1
        if self._count > self._most:
            self.flooded = True
        return self.flooded

    def reset(self) -> None:
        """Forget what was counted: the stream has ended."""
        self._count, self.flooded = 0, False
