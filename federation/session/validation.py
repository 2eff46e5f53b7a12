"""Validation of the requests of a session: an invalid field raises an `InputError` that names it. Pure."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, Final, TypeAlias, TypeVar

from federation.errors import InputError, Refusal
from federation.scope.model import KNOWN_RESOURCES, SENSITIVE_RESOURCES
from federation.session.paging.query_plans import CapabilitiesPlan, GetPlan, ListPlan, QueryPlan, SearchPlan
from federation.suggest import hint
from federation.v1 import federation_pb2 as pb
from federation.verbs.validation import (
    MAX_ID,
    MAX_QUERY,
    MAX_RESOURCE,
    bounded_text,
    checked_page_size,
    checked_resources,
    checked_where,
)

R = TypeVar("R", pb.ListRequest, pb.GetRequest, pb.SearchRequest)

Request: TypeAlias = pb.ListRequest | pb.GetRequest | pb.SearchRequest | pb.CapabilitiesRequest
RESOURCES: Final = tuple(sorted(KNOWN_RESOURCES)) + tuple(sorted(SENSITIVE_RESOURCES))
"""The resources that this gateway's own data may hold."""
_PLANS: Final[Mapping[type, Callable[[Any, str, str], QueryPlan[Any]]]] = {
    pb.ListRequest: ListPlan,
    pb.GetRequest: GetPlan,
    pb.SearchRequest: SearchPlan,
    pb.CapabilitiesRequest: CapabilitiesPlan,
}


def build_request(kind: type[R], **fields: Any) -> R:
    """Build a request message. Raises `InputError` that names the field with an unsuitable value."""
    try:
        return kind(**fields)
    except (TypeError, ValueError):
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as e:
                raise InputError(name, str(e)) from None
        raise


def require_list(field: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return the strings as a tuple. Raises `InputError` for a single string, which would iterate by letter."""
    if isinstance(values, str):
        raise InputError(field, f"must be a list of strings, such as [{values[:40]!r}]")
    return tuple(values)


def plain_user(user: str) -> str:
    """Return the name of a local user. Raises `InputError` for an empty name or one that is not Unicode text."""
    try:
        user.encode()
    except UnicodeEncodeError:
        raise InputError("user", "is not Unicode text") from None
    if not user:
        raise InputError("user", "is missing")
    return user


def validate(request: Request, *, local: bool) -> None:
    """Raise `InputError` if a field is out of bounds, or with `local` if a resource is unknown to the local data."""
    try:
        _check(request)
    except Refusal as refusal:
        raise as_input_error(refusal) from None
    if local:
        match request:
            case pb.ListRequest() | pb.GetRequest():
                _check_known("resource", request.resource)
            case pb.SearchRequest():
                for resource in request.resources:
                    _check_known("resources", resource)


def plan_of(request: Request, user: str, source: str) -> QueryPlan[Any]:
    """Return the query plan of a copy of the request. Raises `TypeError` for another kind of message."""
    plan = _PLANS.get(type(request))
    if plan is None:
        raise TypeError(f"a session answers list, get, search and capabilities, not {type(request).__name__}")
    return plan(deepcopy(request), user, source)


def as_input_error(refusal: Refusal) -> InputError:
    """Convert an INVALID_REQUEST refusal of this gateway to an `InputError` of the field."""
    field, _, problem = refusal.message.partition(": ")
    return InputError(field, problem) if problem else InputError("request", refusal.message)


def _check(request: Request) -> None:
    match request:
        case pb.ListRequest():
            bounded_text("resource", request.resource, MAX_RESOURCE)
            checked_page_size(request.page_size)
            checked_where(request.where)
            if request.HasField("after"):
                raise InputError(
                    "after", "a session continues by its own page_token, which holds the cursor of every source"
                )
        case pb.GetRequest():
            bounded_text("resource", request.resource, MAX_RESOURCE)
            bounded_text("id", request.id, MAX_ID)
        case pb.SearchRequest():
            if not bounded_text("query", request.query, MAX_QUERY).strip():
                raise InputError("query", "has no search terms")
            checked_page_size(request.page_size)
            checked_resources(request.resources)


def _check_known(field: str, resource: str) -> None:
    if resource in RESOURCES:
        return
    meant = hint(resource, RESOURCES, most=3)
    raise InputError(field, f"unknown here; known are {', '.join(RESOURCES)}{f'; {meant}' if meant else ''}")
