"""Hooks of `os.fork` for client objects that hold gRPC channels, threads or locks.

gRPC allows no use of the parent's objects in the child, not even their garbage collection. So each object ends its
streams before the fork; in the child it drops gRPC's objects and answers its callers with an error.
"""

import gc
import os
from typing import Final, Protocol
from weakref import WeakSet


class ForkAware(Protocol):
    """An object with work to do around a fork."""

    def before_fork(self) -> None:
        """Prepare for a fork, in the thread that forks."""
        ...

    def after_fork_in_parent(self) -> None:
        """Resume in the parent."""
        ...

    def after_fork_in_child(self) -> None:
        """Drop everything that belongs to the parent, without touching gRPC's objects."""
        ...


_OBJECTS: Final["WeakSet[ForkAware]"] = WeakSet()
_PARENT_OBJECTS: Final[list[ForkAware]] = []
"""Objects of the parent, referenced until the child ends: gRPC's objects in them must not be collected."""
_COLLECTS: Final[list[bool]] = []
"""Whether garbage collection was enabled before the fork under way."""


def register(each: ForkAware) -> None:
    """Call the methods of an object around each fork while the object lives."""
    _OBJECTS.add(each)


def _before() -> None:
    if _OBJECTS:
        _COLLECTS.append(gc.isenabled())
        gc.disable()
    for each in list(_OBJECTS):
        each.before_fork()


def _after_in_parent() -> None:
    _collect_again()
    for each in list(_OBJECTS):
        each.after_fork_in_parent()


def _after_in_child() -> None:
    for each in list(_OBJECTS):
        each.after_fork_in_child()
        _PARENT_OBJECTS.append(each)
    if _COLLECTS:
        gc.freeze()  # collecting the parent's last asyncio channel would wait forever for a thread
        _collect_again()


def _collect_again() -> None:
    if _COLLECTS and _COLLECTS.pop():
        gc.enable()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
