"""How many calls a minute a grant may make: `limits`' sliding window counter, over windows kept here in memory.

The windows are a storage of our own because the one that `limits` ships starts a thread (or a task) for most calls
and reads the machine's clock.
"""

from collections.abc import Callable
from functools import lru_cache
from math import floor
from time import monotonic
from typing import Final

from cachetools import LRUCache
from limits import RateLimitItemPerMinute
from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport
from limits.strategies import SlidingWindowCounterRateLimiter

from federation.errors import Reason, Refusal

__all__ = ["GrantLimiter"]

MAX_GRANTS: Final = 65_536
"""Grants whose windows are remembered; beyond that, the one that was quiet longest starts anew."""
LEAST_WAIT_S: Final = 0.001


class GrantLimiter:
    """Counts calls a grant over the last minute, approximately: the minute before counts by the share still in view.

    `monotonic` is a clock in seconds. Only ids of known grants may be given, which is what bounds the memory.
    """

    def __init__(self, monotonic: Callable[[], float] = monotonic) -> None:
        self._windows = _Windows(monotonic)
        self._limiter = SlidingWindowCounterRateLimiter(self._windows)

    def check(self, grant_id: str, per_minute: int) -> None:
        """Count one call; raise `Refusal` RATE_LIMITED, which says when the next one may pass. It is not counted."""
        item = _item(per_minute)
        if self._limiter.hit(item, grant_id):
            return
        wait = self._windows.wait(item.key_for(grant_id), item.amount, item.get_expiry())
        raise Refusal(
            Reason.RATE_LIMITED,
            f"more than {per_minute} calls a minute under this grant; try again in {max(wait, 0.1):.1f} s",
            retry_after_s=wait,
        )


@lru_cache(maxsize=1_024)
def _item(per_minute: int) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(per_minute)


class _Windows(Storage, SlidingWindowCounterSupport):
    """The count of this and the last window a key. One event loop uses it, so it needs no lock."""

    STORAGE_SCHEME = None

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._now = monotonic
        self._counts: LRUCache[str, tuple[int, int, int]] = LRUCache(MAX_GRANTS)

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        index, previous, current, left = self._view(key, expiry)
        if floor(previous * left / expiry + current) + amount > limit:
            return False
        self._counts[key] = (index, previous, current + amount)
        return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        _, previous, current, left = self._view(key, expiry)
        return previous, left, current, left + expiry

    def wait(self, key: str, limit: int, expiry: int) -> float:
        """Return the seconds after which one more entry fits, if none other comes in."""
        _, previous, current, left = self._view(key, expiry)
        # No more than `limit` are ever let into one window, so the next window has room as soon as it begins.
        seconds = left - expiry * (limit - current) / max(previous, 1) if current < limit else left
        return max(seconds, 0.0) + LEAST_WAIT_S

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        self._counts.pop(key, None)

    def _view(self, key: str, expiry: int) -> tuple[int, int, int, float]:
        now = self._now()
        window = int(now // expiry)
        index, previous, current = self._counts.get(key, (window, 0, 0))
        if index == window - 1:
            previous, current = current, 0
        elif index != window:
            previous = current = 0
        return window, previous, current, expiry - now % expiry

    # The fixed-window half of the interface, which the strategy above never calls.
    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError

    def get(self, key: str) -> int:
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        raise NotImplementedError

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        count = len(self._counts)
        self._counts.clear()
        return count

    def clear(self, key: str) -> None:
        self._counts.pop(key, None)
