"""`AdminService`: binds each RPC to the method of a handler object."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

from federation.admin.context import AdminContext
from federation.admin.handlers.audit import AuditHandlers
from federation.admin.handlers.completion import suggest
from federation.admin.handlers.grants import GrantHandlers
from federation.admin.handlers.import_rows import import_rows
from federation.admin.handlers.peers import PeerHandlers
from federation.admin.handlers.queries import QueryHandlers
from federation.admin.handlers.revocations import RevocationHandlers
from federation.admin.handlers.status import StatusHandlers


class AdminService:
    """The methods that gRPC registers. `ErrorBoundary` awaits or iterates their results."""

    def __init__(self, context: AdminContext) -> None:
        grants, audit = GrantHandlers(context), AuditHandlers(context)
        self._peers, self._revocations = PeerHandlers(context), RevocationHandlers(context)
        self._queries, self._status = QueryHandlers(context), StatusHandlers(context)
        handlers: Mapping[str, Callable[[Any], Any]] = {
            "Status": self._status.status,
            "WatchStatus": self._status.watch,
            "CreateGrant": grants.create,
            "GetGrant": grants.get,
            "ListGrants": grants.list,
            "CreateEnrollmentToken": grants.token,
            "ConfirmGrant": grants.confirm,
            "RevokeGrant": self._revocations.revoke,
            "UpdateGrantScope": self._revocations.edit_scope,
            "RemoveUser": self._revocations.remove_user,
            "AddPeer": self._peers.add,
            "ListPeers": self._peers.list,
            "RemovePeer": self._peers.remove,
            "GetPeer": self._peers.get,
            "RotatePeer": self._peers.rotate,
            "ResetCircuit": self._peers.reset,
            "Query": self._queries.answer,
            "ListAuditEvents": audit.list,
            "SuggestNames": partial(suggest, context),
            "ImportRows": partial(import_rows, context),
        }
        for rpc, handler in handlers.items():
            setattr(self, rpc, _without_context(handler))

    def end_streams(self) -> None:
        """End the status streams, which otherwise last until their callers cancel them."""
        self._status.close()

    async def close(self) -> None:
        """Wait for operations in progress, and close the named sessions."""
        await self._peers.close()
        await self._revocations.close()
        await self._queries.close()


def _without_context(handler: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    @wraps(handler)
    def answer(request: Any, _context: Any) -> Any:
        return handler(request)

    return answer
