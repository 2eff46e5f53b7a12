"""What `--json` prints of a grant beside its fields. These shapes are stable; a field is added, never changed."""

from collections.abc import Iterable
from typing import Any

from federation.errors import InputError
from federation.scope.describe import scope_words
from federation.scope.model import Scope
from federation.v1 import admin_pb2 as pb
from mosaic_cli.output import shapes

__all__ = ["grant", "open_resources", "opens", "words"]


def grant(message: pb.GrantInfo) -> dict[str, Any]:
    """Return a grant with its scope in words and its use. One that was only tried has no id."""
    return {
        **shapes.full_grant(message),
        "id": message.id or None,
        "words": list(words(message)),
        "leases": message.leases,
        "watches": message.watches,
        "requests": message.requests,
        "denials": message.denials,
        "last_denied": shapes.instant(message, "last_denied_at"),
        "last_denied_reason": message.last_denied_reason or None,
    }


def opens(previews: Iterable[pb.ResourcePreview]) -> list[dict[str, Any]]:
    """Return what a scope opens at this moment; `more` tells that there are more rows than were counted."""
    return [
        {"resource": one.resource, "rows": one.rows, "more": one.more, "newest_ids": list(one.newest_ids)}
        for one in previews
    ]


def open_resources(message: pb.GrantInfo) -> tuple[str, ...] | None:
    """Return what a call may name; `None` for a scope that only a gateway of another version understands."""
    try:
        return Scope.parse(message.scope).open_resources
    except InputError:
        return None


def words(message: pb.GrantInfo) -> tuple[str, ...]:
    """Return the scope in sentences."""
    try:
        return scope_words(Scope.parse(message.scope), message.subject)
    except InputError as e:  # a gateway of another version has said it
        return (f"{message.scope} ({e})",)
