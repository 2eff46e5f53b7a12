"""Instants for people: the second, and how far it is from now."""

from google.protobuf.message import Message

from cli import render, shapes

__all__ = ["moment"]


def moment(message: Message, field: str, absent: str = "-") -> str:
    """Return a timestamp field as `2026-01-31 12:00:00 UTC (3 h ago)`."""
    text = shapes.instant(message, field)
    return f"{text[:19].replace('T', ' ')} UTC ({render.when(message, field)})" if text else absent
