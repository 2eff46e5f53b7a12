"""`AdminService`: each RPC of the operator, bound to the method of a handler object that answers it."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

from federation.admin.context import AdminContext
from federation.admin.handlers.audit import AuditDesk
from federation.admin.handlers.completion import suggest
from federation.admin.handlers.grants import GrantDesk
from federation.admin.handlers.import_rows import import_rows
from federation.admin.handlers.peers import PeerDesk
from federation.admin.handlers.queries import QueryDesk
from federation.admin.handlers.revocations import RevocationDesk
from federation.admin.handlers.status import StatusDesk

__all__ = ["AdminService"]


class AdminService:
    """The methods that gRPC registers, behind `IncidentGuard`, which awaits or iterates what they return."""

    def __init__(self, parts: AdminContext) -> None:
        grants, audit = GrantDesk(parts), AuditDesk(parts)
        self._peers, self._queries, self._status = PeerDesk(parts), QueryDesk(parts), StatusDesk(parts)
        self._revocations = RevocationDesk(parts)
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
            "SuggestNames": partial(suggest, parts),
            "ImportRows": partial(import_rows, parts),
        }
        for rpc, handler in handlers.items():
            setattr(self, rpc, _without_context(handler))

    def end_streams(self) -> None:
        """End the status streams, which otherwise last as long as their callers listen."""
        self._status.close()

    async def close(self) -> None:
        """Wait for acts that have begun."""
        await self._peers.close()
        await self._revocations.close()
        await self._queries.close()


def _without_context(handler: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    @wraps(handler)
    def answer(request: Any, _context: Any) -> Any:
        return handler(request)

    return answer
