"""The JSON objects of grants."""

from collections.abc import Iterable

from federation.errors import InputError
from federation.scope.describe import describe_scope
from federation.scope.model import Scope
from federation.v1 import admin_pb2 as pb
from mosaic_cli.output.models import Grant, ResourcePreview, Shape, fill, instant
from mosaic_cli.output.shapes import json_value


def grant(message: pb.GrantInfo) -> Shape:
    """Return a grant with its scope in sentences and its use. A grant of `--dry-run` has no id."""
    return fill(
        Grant,
        message,
        scope=json_value(message.scope),
        words=list(sentences(message)),
        last_used=instant(message, "last_used_at"),
        last_denied=instant(message, "last_denied_at"),
    )


def opens(previews: Iterable[pb.ResourcePreview]) -> list[Shape]:
    """Return the rows that a scope opens now, by resource."""
    return [fill(ResourcePreview, one) for one in previews]


def open_resources(message: pb.GrantInfo) -> tuple[str, ...] | None:
    """Return the resources that a call may name, or `None` for a scope that this version cannot parse."""
    try:
        return Scope.parse(message.scope).open_resources
    except InputError:
        return None


def sentences(message: pb.GrantInfo) -> tuple[str, ...]:
    """Return the scope in sentences."""
    try:
        return describe_scope(Scope.parse(message.scope), message.subject)
    except InputError as e:  # from a gateway of another version
        return (f"{message.scope} ({e})",)
