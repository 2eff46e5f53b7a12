"""The JSON objects of grants."""

from collections.abc import Iterable

from federation.errors import InputError
from federation.scope.describe import describe_scope
from federation.scope.model import Scope
from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.models import Grant, ResourcePreview, Shape, fill, instant
from mosaic_cli.output.shapes import json_value

__all__ = ["grant", "open_resources", "opens", "words"]


def grant(message: pb.GrantInfo) -> Shape:
    """Return a grant with its scope in words and its use. A grant of `--dry-run` has no id."""
    return fill(
        Grant,
        message,
        scope=json_value(message.scope),
        words=list(words(message)),
        last_used=instant(message, "last_used_at"),
        last_denied=instant(message, "last_denied_at"),
    )


def opens(previews: Iterable[pb.ResourcePreview]) -> list[Shape]:
    """Return what a scope opens at this moment."""
    return [fill(ResourcePreview, one) for one in previews]


def open_resources(message: pb.GrantInfo) -> tuple[str, ...] | None:
    """Return what a call may name; `None` for a scope that only a gateway of another version understands."""
    try:
        return Scope.parse(message.scope).open_resources
    except InputError:
        return None


def words(message: pb.GrantInfo) -> tuple[str, ...]:
    """Return the scope in sentences."""
    try:
        return describe_scope(Scope.parse(message.scope), message.subject)
    except InputError as e:  # a gateway of another version has said it
        return (f"{message.scope} ({e})",)
