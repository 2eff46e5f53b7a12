"""Reading the audit trail: a limited number of events, or new events as they are written."""

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import orjson
import typer

from federation.admin.client import connect
from federation.admin.errors import error_of
from federation.errors import GatewayUnavailableError, NotFoundError, StoreError
from federation.v1 import admin_pb2 as pb
from mosaic_cli.audit.view import AuditLines
from mosaic_cli.lookup import resolve_grant_id
from mosaic_cli.output import console, shapes
from mosaic_cli.output.errors import explain

if TYPE_CHECKING:
    from federation.v1.admin_pb2_grpc import AdminServiceStub

PAGE: Final = 1_000
POLL_S: Final = 0.25
RETRY_S: Final = 0.5
INCOMPLETE: Final = 1


def page(gateway: Path, request: pb.ListAuditEventsRequest, limit: int, *, as_json: bool) -> None:
    """Print at most `limit` events. Exits with code 1 if part of the history could not be read."""
    events: list[pb.AuditEvent] = []
    warnings: dict[str, None] = {}
    with connect(gateway) as admin:
        _resolve_grant(admin, request)
        while True:
            request.page_size = min(PAGE, limit - len(events))
            reply = admin.ListAuditEvents(request)
            events += reply.events
            warnings |= dict.fromkeys(reply.warnings)
            request.page_token = reply.next_page_token
            if not request.page_token or len(events) >= limit:
                break
    token = request.page_token
    if as_json:
        shown = [shapes.audit_event(event) for event in events]
        console.write(shapes.dump({"events": shown, "next_page_token": token or None, "warnings": list(warnings)}))
    else:
        AuditLines().show(events)
        if not events:
            console.message("no events yet" if not _is_filtered(request) else "no event matches these filters")
        if token:
            console.message(f"more events: --limit, or the same filters with --page-token {token}")
    for warning in warnings:
        console.message(f"warning: {warning}")
    if warnings:
        raise typer.Exit(INCOMPLETE)


def follow(gateway: Path, request: pb.ListAuditEventsRequest, first: int, *, as_json: bool) -> None:
    """Print the newest events, and then each new event, until Ctrl-C.

    Waits while the gateway is unreachable. Raises `GatewayUnavailableError` if it does not run at the start.
    """
    show = _lines if as_json else AuditLines().show
    request.follow, request.page_size = True, first
    unreachable = False
    try:
        while True:
            try:
                with connect(gateway) as admin:
                    if not request.page_token:
                        _resolve_grant(admin, request)
                    while True:
                        reply = admin.ListAuditEvents(request)
                        if unreachable:
                            console.message("the gateway is reachable again")
                            unreachable = False
                        show(reply.events)
                        if reply.next_page_token == request.page_token:
                            time.sleep(POLL_S)
                        request.page_token, request.follow, request.page_size = reply.next_page_token, False, PAGE
            except (GatewayUnavailableError, StoreError) as e:
                if not request.page_token:
                    raise
                if not unreachable:
                    console.message(f"{explain(e)}. Waiting for it; no event will be missed. Ctrl-C quits")
                unreachable = True
                time.sleep(RETRY_S)
    except KeyboardInterrupt:
        console.flush()


def _resolve_grant(admin: "AdminServiceStub", request: pb.ListAuditEventsRequest) -> None:
    """Replace a prefix of a grant id by the full id. An id of no local grant may be the id of a peer's grant."""
    if request.grant_id:
        with suppress(NotFoundError):
            try:
                request.grant_id = resolve_grant_id(admin, request.grant_id)
            except grpc.RpcError as e:
                raise error_of(e) from None


def _lines(events: Iterable[pb.AuditEvent]) -> None:
    for event in events:
        sys.stdout.write(f"{orjson.dumps(shapes.audit_event(event)).decode()}\n")
    console.flush()


def _is_filtered(request: pb.ListAuditEventsRequest) -> bool:
    named = request.grant_id or request.peer or request.verb or request.outcome
    return bool(named) or request.HasField("since") or request.HasField("until")
