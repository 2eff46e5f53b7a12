"""A clock that a test sets by hand."""

from federation.clock import Clock


class ManualClock:
    """Monotonic, elapsed and wall time: `advance` moves all three; a test may also set one alone."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.monotonic_s = 1_000.0
        self.elapsed_s = 5_000.0
        self.wall_s = wall

    def advance(self, seconds: float) -> None:
        """Advance all three times, as on a machine that is not suspended."""
        self.monotonic_s += seconds
        self.elapsed_s += seconds
        self.wall_s += seconds

    @property
    def clock(self) -> Clock:
        """The `Clock` to inject."""
        return Clock(lambda: self.monotonic_s, lambda: self.elapsed_s, lambda: self.wall_s)
