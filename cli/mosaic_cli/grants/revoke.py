"""`grant scope` and `grant revoke`: change or revoke a grant."""

from typing import TYPE_CHECKING, Annotated

import typer

from mosaic_cli.completion import GrantId
from mosaic_cli.options import UNSET_GATEWAY, Gateway, Json, ScopeDocument, read_argument

if TYPE_CHECKING:
    from federation.v1 import admin_pb2 as pb

NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Return when the change is stored; do not wait until all caches are released.")
]


def scope(
    grant: GrantId,
    document: ScopeDocument,
    gateway: Gateway = UNSET_GATEWAY,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what the peer would gain and lose.")] = False,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Replace the scope of a grant from the next call on, and show what the peer gains and loses.

    What the peer loses is also invalidated in its caches; the command then ends with a receipt, as `grant revoke` does.
    With --dry-run nothing changes; the command shows how many rows each resource opens now and with the new scope.

    \b
    Examples:
      mosaic federation grant scope 6f1c2f0e-0d5c-4b8e-9f43-8c1d6c0f1a2b --scope narrower.json --dry-run
      mosaic federation grant scope 6f1c --scope '{"resources": ["tasks"]}'
    """
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.grants import receipts
    from mosaic_cli.grants import shapes as grant_shapes
    from mosaic_cli.lookup import grant_at
    from mosaic_cli.output import console, shapes

    text = read_argument(document, "scope")
    with grant_at(gateway, grant) as (admin, grant_id):
        request = pb.UpdateGrantScopeRequest(id=grant_id, scope=text, validate_only=dry_run, no_wait=no_wait)
        with receipts.interruptible(f"mosaic federation grant scope {grant_id} with the same scope"):
            replies = iter(admin.UpdateGrantScope(request))
            first = next(replies)
            if not as_json:
                _show_change(first, text, dry_run=dry_run)
            results = receipts.follow(replies, no_wait=no_wait)
    if as_json:
        shape = {
            "grant": grant_shapes.grant(first.grant),
            "warnings": list(first.warnings),
            "gains": list(first.gains),
            "losses": list(first.losses),
            "opened": grant_shapes.opens(first.opened),
            "opens": grant_shapes.opens(first.opens),
            "applied": first.applied,
            "receipt": shapes.revocation_result(results[0]) if results else None,
        }
        console.write(shapes.dump(shape))
        return
    for result in results:
        receipts.show(result)


def revoke(
    grant: GrantId,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Stored with the grant and sent to the peer.")
    ] = "",
    gateway: Gateway = UNSET_GATEWAY,
    *,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Revoke a grant permanently. This gateway refuses every further call under the grant at once.

    The command ends with a receipt: the instant from which no cache of the peer can serve rows of this grant, and how
    each cache was released. That takes one round trip while the peer is connected, otherwise until its lease ends
    (about 33 seconds at most). Interrupting the command does not stop the revocation; running it again shows the same
    revocation.

    A unique prefix of the id names the grant; the full id is printed before it is revoked.

    \b
    Examples:
      mosaic federation grant revoke 6f1c2f0e-0d5c-4b8e-9f43-8c1d6c0f1a2b --reason "contract ended"
      mosaic federation grant revoke 6f1c --no-wait --json
    """
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.grants import receipts
    from mosaic_cli.lookup import grant_at
    from mosaic_cli.output import console, shapes

    with grant_at(gateway, grant) as (admin, grant_id):
        request = pb.RevokeGrantRequest(id=grant_id, reason=reason, no_wait=no_wait)
        with receipts.interruptible(f"mosaic federation grant revoke {grant_id}"):
            results = receipts.follow(admin.RevokeGrant(request), no_wait=no_wait)
    for result in results:
        if as_json:
            console.write(shapes.dump({"receipt": shapes.revocation_result(result)}))
        else:
            receipts.show(result)


def _show_change(reply: "pb.UpdateGrantScopeResponse", document: str, *, dry_run: bool) -> None:
    from federation.scope.describe import summarize_scope
    from federation.scope.model import Scope
    from mosaic_cli.grants import view
    from mosaic_cli.output import console

    for warning in reply.warnings:
        console.message(f"warning: {warning}")
    for label, sentences in (("gains", reply.gains), ("loses", reply.losses)):
        for sentence in sentences:
            console.write(f"{label}  {sentence}")
    scope = Scope.parse(document)
    if dry_run:
        view.show_opened(reply, scope.open_resources)
        console.message("nothing was changed (--dry-run)")
    elif not reply.applied:
        console.message("this scope is already in force")
    elif not (reply.gains or reply.losses):
        console.message("the new scope is in force; it opens the same as the old scope")
    else:
        console.message("the new scope is in force from the next call on")
    console.message(
        f"{'the scope would be' if dry_run else 'the scope is now'}: {summarize_scope(scope, reply.grant.subject)}"
    )
