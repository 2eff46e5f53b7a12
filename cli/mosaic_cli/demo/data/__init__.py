"""The sample data of `mosaic demo`, as files for `mosaic gateway import`.

The work gateway has the users Ada (team T1, platform), Linus (T2, growth) and Grace (both), with tasks, notes, memory
of their assistants, and example credentials. The home gateway has only Ada.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

WORK: Final[Traversable] = files(__name__) / "work.jsonl"
"""The work gateway's rows."""
HOME: Final[Traversable] = files(__name__) / "home.jsonl"
"""The home gateway's rows."""
