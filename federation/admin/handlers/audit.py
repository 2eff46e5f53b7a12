"""The operator's look at the audit: pages, the history in files, and following the trail as it is written."""

from collections.abc import Sequence

from federation.admin.context import AdminContext
from federation.admin.messages.common import audit_message
from federation.errors import InputError, NotFoundError
from federation.server.audit.vocabulary import AUDIT_VERBS, MIXED, check_outcome, unknown_verb
from federation.store.audit.archive import AuditFiles
from federation.store.audit.history import AuditHistory
from federation.store.audit.model import AuditEvent, AuditFilter, tail_position, tail_token
from federation.store.audit.table import check_page_size
from federation.suggest import near_matches
from federation.v1 import admin_pb2 as pb
from federation.wire.timestamps import micros_of

__all__ = ["AuditDesk"]

DEFAULT_PAGE = 50


class AuditDesk:
    """Answers what is asked of one gateway's audit."""

    def __init__(self, parts: AdminContext) -> None:
        self._parts, self._store = parts, parts.audit_store
        self._history = AuditHistory(parts.audit_store, AuditFiles(parts.config.audit_directory))

    async def list(self, request: pb.ListAuditEventsRequest) -> pb.ListAuditEventsResponse:
        """Return events. Raises `InputError` for a filter that can match nothing, `NotFoundError` for an unknown name.

        A name is unknown where nothing bears it: no event, and neither grant nor peer of now.
        """
        size = request.page_size or DEFAULT_PAGE
        check_page_size(size)
        wanted = await self._wanted(request)
        followed = tail_position(wanted, request.page_token)
        if request.follow or request.after_id or followed is not None:
            reply = await self._followed(request, wanted, size, followed)
        else:
            source = self._history if request.history else self._store
            page = await source.page(wanted, size, request.page_token)
            reply = _message(page.events, page.next_page_token, page.warnings)
        if not (reply.events or request.page_token or (request.history and reply.next_page_token)):
            await self._check_names(wanted)
        return reply

    async def _followed(
        self, request: pb.ListAuditEventsRequest, wanted: AuditFilter, size: int, followed: int | None
    ) -> pb.ListAuditEventsResponse:
        if request.history or wanted.until_us is not None:
            raise InputError("history" if request.history else "until", "cannot be had while following the trail")
        if request.page_token and followed is None:
            raise InputError("page_token", "is not one for following the trail; ask again without it")
        if followed is None and not request.after_id:
            found = await self._store.latest(wanted, size)
        else:
            after_id = request.after_id if followed is None else followed
            found = await self._store.later(wanted, max(after_id, 0), size)
        return _message(found.events, tail_token(wanted, found.last_id))

    async def _wanted(self, request: pb.ListAuditEventsRequest) -> AuditFilter:
        check_outcome(request.outcome)
        wanted = AuditFilter(
            grant_id=request.grant_id,
            peer=request.peer,
            verb=request.verb,
            outcome=request.outcome,
            since_us=micros_of(request.since) if request.HasField("since") else None,
            until_us=micros_of(request.until) if request.HasField("until") else None,
        )
        if wanted.since_us is not None and wanted.until_us is not None and wanted.since_us >= wanted.until_us:
            raise InputError("since", "must be before until")
        known = wanted.verb in {"", MIXED, *AUDIT_VERBS}
        if not known and not await self._store.newest(AuditFilter(verb=wanted.verb), 1):  # of another version, maybe
            raise unknown_verb(wanted.verb)
        return wanted

    async def _check_names(self, wanted: AuditFilter) -> None:
        grants, peers = self._parts.grants.all(), self._parts.federation.peers.all()
        ids = {grant.id for grant in grants} | {peer.grant_id for peer in peers}
        names = {grant.peer for grant in grants} | {peer.name for peer in peers}
        for what, name, known in (("grant", wanted.grant_id, ids), ("peer", wanted.peer, names)):
            only = AuditFilter(grant_id=name) if what == "grant" else AuditFilter(peer=name)
            if name and name not in known and not await self._store.newest(only, 1):
                raise NotFoundError(what, name, near_matches(name, known, most=1), "no event names it either")


def _message(events: Sequence[AuditEvent], token: str, warnings: Sequence[str] = ()) -> pb.ListAuditEventsResponse:
    return pb.ListAuditEventsResponse(
        events=[audit_message(event) for event in events], next_page_token=token, warnings=warnings
    )
