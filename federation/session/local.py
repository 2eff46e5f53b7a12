"""The gateway's own data as a source, read through the provider with the user's rights, not narrowed by a grant."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import Message

from federation.errors import FederationError, InputError, Reason, Refusal, log_incident
from federation.resources.provider import ResourceProvider
from federation.scope.model import MAX_ROWS_LIMIT, Scope
from federation.session.validation import RESOURCES, as_input_error
from federation.store.grants.model import Grant, GrantStatus
from federation.verbs.handlers import Verbs, version
from federation.verbs.page_tokens import PageTokens

LOGGER: Final = logging.getLogger(__name__)
SCOPE: Final = Scope(resources=RESOURCES, max_rows_per_query=MAX_ROWS_LIMIT)


class LocalData:
    """Reads local data as a local user. `provider` is called at every read, so it may open the data on first use."""

    def __init__(self, provider: Callable[[], Awaitable[ResourceProvider]], gateway: str, page_key: bytes) -> None:
        self._provider, self._gateway, self._tokens = provider, gateway, PageTokens(page_key)

    async def read(self, user: str, verb: str, request: Message) -> Message:
        """Run a verb. Raises `InputError` for an invalid request, otherwise a `Refusal` without internal details."""
        try:
            verbs = Verbs(self._gateway, version(), await self._provider(), self._tokens)
            handler: Any = getattr(verbs, verb)
            message: Message = (await handler(_grant(self._gateway, user), request)).message
        except Refusal as refusal:
            raise _as_local(refusal) from None
        except Exception as e:
            incident = log_incident(LOGGER, e, "the gateway's own data")
            raise Refusal(Reason.INTERNAL, f"incident {incident}; the gateway's log says more") from e
        return message


def _grant(gateway: str, user: str) -> Grant:
    return Grant(
        id=f"local user {user}",
        peer=gateway,
        subject=user,
        scope=SCOPE,
        status=GrantStatus.ACTIVE,
        created_at_us=0,
    )


def _as_local(refusal: Refusal) -> FederationError:
    """Reword a refusal for a local user, whose access does not depend on a grant."""
    if refusal.reason is Reason.SCOPE_VIOLATION:
        return InputError("resource", f"unknown here; known are {', '.join(RESOURCES)}")
    if refusal.reason is Reason.ROW_NOT_FOUND:
        return Refusal(Reason.ROW_NOT_FOUND, "no such row that this user may read")
    return as_input_error(refusal) if refusal.reason is Reason.INVALID_REQUEST else refusal
