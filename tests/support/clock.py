"""Time that a test moves by hand."""

from federation.clock import Clock


class ManualClock:
    """Three hands that `advance` moves together, and that a test may also move apart."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.monotonic_s = 1_000.0
        self.elapsed_s = 5_000.0
        self.wall_s = wall

    def advance(self, seconds: float) -> None:
        """Let time pass as it does on a machine that is awake."""
        self.monotonic_s += seconds
        self.elapsed_s += seconds
        self.wall_s += seconds

    @property
    def clock(self) -> Clock:
        """The clock to inject."""
        return Clock(lambda: self.monotonic_s, lambda: self.elapsed_s, lambda: self.wall_s)
