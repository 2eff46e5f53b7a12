"""`AdminService` on the wire: each RPC handed to the desk that does it, within the guard."""

from collections.abc import AsyncIterator

from federation.admin.context import AdminContext
from federation.admin.error_boundary import Context, guarded, guarded_stream
from federation.admin.handlers.audit import AuditDesk
from federation.admin.handlers.completion import suggest
from federation.admin.handlers.grants import GrantDesk
from federation.admin.handlers.import_rows import import_rows
from federation.admin.handlers.peers import PeerDesk
from federation.admin.handlers.queries import QueryDesk
from federation.admin.handlers.revocations import RevocationDesk
from federation.admin.handlers.status import StatusDesk
from federation.v1 import admin_pb2 as pb
from federation.v1.admin_pb2_grpc import AdminServiceServicer

__all__ = ["AdminServicer"]


class AdminServicer(AdminServiceServicer):
    """The operator's service."""

    def __init__(self, parts: AdminContext) -> None:
        self._parts = parts
        self._grants, self._peers, self._queries = GrantDesk(parts), PeerDesk(parts), QueryDesk(parts)
        self._revocations = RevocationDesk(parts)
        self._status, self._audit = StatusDesk(parts), AuditDesk(parts)

    def end_streams(self) -> None:
        """End what would go on for as long as its caller listens."""
        self._status.close()

    async def close(self) -> None:
        """Wait for acts that have begun."""
        await self._peers.close()
        await self._revocations.close()
        await self._queries.close()

    @guarded
    async def Status(self, request: pb.StatusRequest, _context: Context) -> pb.StatusResponse:
        """Return the gateway, its peers and its grants."""
        return await self._status.status(request)

    @guarded_stream
    async def WatchStatus(
        self, request: pb.WatchStatusRequest, _context: Context
    ) -> AsyncIterator[pb.WatchStatusResponse]:
        """Return the status again and again, until the gateway stops."""
        async for reply in self._status.watch(request):
            yield reply

    @guarded
    async def CreateGrant(self, request: pb.CreateGrantRequest, _context: Context) -> pb.CreateGrantResponse:
        """Create a pending grant."""
        return await self._grants.create(request)

    @guarded
    async def GetGrant(self, request: pb.GetGrantRequest, _context: Context) -> pb.GetGrantResponse:
        """Return one grant."""
        return await self._grants.get(request)

    @guarded
    async def ListGrants(self, request: pb.ListGrantsRequest, _context: Context) -> pb.ListGrantsResponse:
        """Return grants, newest first."""
        return await self._grants.list(request)

    @guarded_stream
    async def RevokeGrant(
        self, request: pb.RevokeGrantRequest, _context: Context
    ) -> AsyncIterator[pb.RevokeGrantResponse]:
        """Revoke a grant and stream what happens; the last message is the receipt."""
        async for reply in self._revocations.revoke(request):
            yield reply

    @guarded_stream
    async def UpdateGrantScope(
        self, request: pb.UpdateGrantScopeRequest, _context: Context
    ) -> AsyncIterator[pb.UpdateGrantScopeResponse]:
        """Put a scope in force, and stream what that takes back."""
        async for reply in self._revocations.edit_scope(request):
            yield reply

    @guarded_stream
    async def RemoveUser(
        self, request: pb.RemoveUserRequest, _context: Context
    ) -> AsyncIterator[pb.RemoveUserResponse]:
        """Revoke every grant of a user and take its rights away; stream what that takes back."""
        async for reply in self._revocations.remove_user(request):
            yield reply

    @guarded
    async def CreateEnrollmentToken(
        self, request: pb.CreateEnrollmentTokenRequest, _context: Context
    ) -> pb.CreateEnrollmentTokenResponse:
        """Make an enrollment token."""
        return await self._grants.token(request)

    @guarded
    async def ConfirmGrant(self, request: pb.ConfirmGrantRequest, _context: Context) -> pb.ConfirmGrantResponse:
        """Open a grant that awaits confirmation."""
        return await self._grants.confirm(request)

    @guarded
    async def AddPeer(self, request: pb.AddPeerRequest, _context: Context) -> pb.AddPeerResponse:
        """Enroll at another gateway."""
        return await self._peers.add(request)

    @guarded
    async def ListPeers(self, request: pb.ListPeersRequest, _context: Context) -> pb.ListPeersResponse:
        """Return peers."""
        return await self._peers.list(request)

    @guarded
    async def RemovePeer(self, request: pb.RemovePeerRequest, _context: Context) -> pb.RemovePeerResponse:
        """Forget a peer."""
        return await self._peers.remove(request)

    @guarded
    async def GetPeer(self, request: pb.GetPeerRequest, _context: Context) -> pb.GetPeerResponse:
        """Return one peer."""
        return await self._peers.get(request)

    @guarded
    async def RotatePeer(self, request: pb.RotatePeerRequest, _context: Context) -> pb.RotatePeerResponse:
        """Replace a peer's certificate now."""
        return await self._peers.rotate(request)

    @guarded
    async def ResetCircuit(self, request: pb.ResetCircuitRequest, _context: Context) -> pb.ResetCircuitResponse:
        """Close a peer's circuit."""
        return await self._peers.reset(request)

    @guarded_stream
    async def Query(self, request: pb.QueryRequest, _context: Context) -> AsyncIterator[pb.QueryResponse]:
        """Run a verb, and stream what each source answers."""
        async for reply in self._queries.answer(request):
            yield reply

    @guarded
    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, _context: Context
    ) -> pb.ListAuditEventsResponse:
        """Return audit events: newest first, or as they were written."""
        return await self._audit.list(request)

    @guarded
    async def SuggestNames(self, request: pb.SuggestNamesRequest, _context: Context) -> pb.SuggestNamesResponse:
        """Return names that begin as given."""
        return await suggest(self._parts, request)

    @guarded_stream
    async def ImportRows(
        self, request_iterator: AsyncIterator[pb.ImportRowsRequest], _context: Context
    ) -> AsyncIterator[pb.ImportRowsResponse]:
        """Load JSON lines, all or nothing."""
        async for reply in import_rows(self._parts, request_iterator):
            yield reply
