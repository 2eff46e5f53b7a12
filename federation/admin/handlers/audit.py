"""Handler of `ListAuditEvents`: pages of the audit table, of the archived history, and the tail of new events."""

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

DEFAULT_PAGE = 50


class AuditHandlers:
    """Answers queries of one gateway's audit trail."""

    def __init__(self, context: AdminContext) -> None:
        self._context, self._store = context, context.audit_store
        self._history = AuditHistory(context.audit_store, AuditFiles(context.config.audit_directory))

    async def list(self, request: pb.ListAuditEventsRequest) -> pb.ListAuditEventsResponse:
        """Return a page of events, or with `follow` the events after a position in the trail.

        Raises `InputError` for a filter that can match no event, and `NotFoundError` for a grant id or peer name that
        occurs neither in an event nor among the current grants and peers.
        """
        size = request.page_size or DEFAULT_PAGE
        check_page_size(size)
        audit_filter = await self._build_filter(request)
        tail_id = tail_position(audit_filter, request.page_token)
        if request.follow or request.after_id or tail_id is not None:
            reply = await self._follow(request, audit_filter, size, tail_id)
        else:
            source = self._history if request.history else self._store
            page = await source.page(audit_filter, size, request.page_token)
            reply = _message(page.events, page.next_page_token, page.warnings)
        if not (reply.events or request.page_token or (request.history and reply.next_page_token)):
            await self._check_names(audit_filter)
        return reply

    async def _follow(
        self, request: pb.ListAuditEventsRequest, audit_filter: AuditFilter, size: int, tail_id: int | None
    ) -> pb.ListAuditEventsResponse:
        if request.history or audit_filter.until_us is not None:
            raise InputError("history" if request.history else "until", "cannot be combined with following the trail")
        if request.page_token and tail_id is None:
            raise InputError("page_token", "is not a token for following the trail; ask again without it")
        if tail_id is None and not request.after_id:
            found = await self._store.latest(audit_filter, size)
        else:
            after_id = request.after_id if tail_id is None else tail_id
            found = await self._store.later(audit_filter, max(after_id, 0), size)
        return _message(found.events, tail_token(audit_filter, found.last_id))

    async def _build_filter(self, request: pb.ListAuditEventsRequest) -> AuditFilter:
        check_outcome(request.outcome)
        audit_filter = AuditFilter(
            grant_id=request.grant_id,
            peer=request.peer,
            verb=request.verb,
            outcome=request.outcome,
            since_us=micros_of(request.since) if request.HasField("since") else None,
            until_us=micros_of(request.until) if request.HasField("until") else None,
        )
        since_us, until_us = audit_filter.since_us, audit_filter.until_us
        if since_us is not None and until_us is not None and since_us >= until_us:
            raise InputError("since", "must be before until")
        # An unknown verb may be that of another version.
        known = request.verb in {"", MIXED, *AUDIT_VERBS}
        if not known and not await self._store.newest(AuditFilter(verb=request.verb), 1):
            raise unknown_verb(request.verb)
        return audit_filter

    async def _check_names(self, audit_filter: AuditFilter) -> None:
        grants, peers = self._context.grants.all(), self._context.federation.peers.all()
        ids = {grant.id for grant in grants} | {peer.grant_id for peer in peers}
        names = {grant.peer for grant in grants} | {peer.name for peer in peers}
        for what, name, known in (("grant", audit_filter.grant_id, ids), ("peer", audit_filter.peer, names)):
            only = AuditFilter(grant_id=name) if what == "grant" else AuditFilter(peer=name)
            if name and name not in known and not await self._store.newest(only, 1):
                raise NotFoundError(what, name, near_matches(name, known, most=1), "no event names it either")


def _message(events: Sequence[AuditEvent], token: str, warnings: Sequence[str] = ()) -> pb.ListAuditEventsResponse:
    return pb.ListAuditEventsResponse(
        events=[audit_message(event) for event in events], next_page_token=token, warnings=warnings
    )
