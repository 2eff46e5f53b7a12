"""The sample of `mosaic demo`, as lines that `mosaic gateway import` takes: a small company's autumn, and a home.

At work are Ada (team T1, platform), Linus (T2, growth) and Grace (both), with tasks, notes, what their assistants
remember, and a few credentials that are examples only. At home is Ada alone.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

__all__ = ["HOME", "WORK"]

WORK: Final[Traversable] = files(__name__) / "work.jsonl"
"""The work gateway's rows."""
HOME: Final[Traversable] = files(__name__) / "home.jsonl"
"""The home gateway's rows."""
