"""`mosaic federation grant`: what others may read here."""

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.options import GATEWAY_HERE, Gateway, GroupGateway, Json, read_argument

if TYPE_CHECKING:
    from federation.v1 import admin_pb2 as pb

__all__ = ["app"]

app = typer.Typer(
    help="Let another gateway read this one's data, within a scope.", no_args_is_help=True, rich_markup_mode=None
)
UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="End as soon as it is durable; do not wait until no cache holds anything.")
]
GrantId = Annotated[str, typer.Argument(metavar="GRANT", help="The grant's id, as `grant list` shows it.")]


@app.callback()
def _group(gateway: GroupGateway = GATEWAY_HERE) -> None:
    """Let another gateway read this one's data, within a scope."""


@app.command("create")
def create(
    peer: Annotated[str, typer.Option("--peer", metavar="NAME", help="The gateway that may enroll.")],
    subject: Annotated[str, typer.Option("--subject", metavar="USER", help="The user here as whom it reads.")],
    scope: Annotated[str, typer.Option("--scope", metavar="FILE", help="A file, - for standard input, or the JSON.")],
    expires: Annotated[str, typer.Option("--expires", metavar="TIME", help="Such as 90d, 12h; default: never.")] = "",
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """Create a grant. It opens nothing until its peer has enrolled with a token.

    \b
    Examples:
      mosaic federation grant create --peer home.example --subject ada --scope scope.json
      mosaic federation grant create --peer home.example --subject ada --expires 90d \\
          --scope '{"resources": ["tasks"]}'
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    request = pb.CreateGrantRequest(
        peer=peer, subject=subject, scope=read_argument(scope, "scope"), expires_in_s=_seconds(expires)
    )
    with connect(gateway) as admin:
        reply = admin.CreateGrant(request)
    for warning in reply.warnings:
        render.say(f"warning: {warning}")
    if as_json:
        render.out(shapes.dump({"grant": shapes.full_grant(reply.grant), "warnings": list(reply.warnings)}))
        return
    _show(reply.grant)
    render.say(f"next: mosaic federation grant token {reply.grant.id}")


@app.command("list")
def list_grants(gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False) -> None:
    """List the grants, newest first.

    \b
    Example:
      mosaic federation grant list --json
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    grants: list[pb.GrantInfo] = []
    with connect(gateway) as admin:
        token = ""
        while True:
            reply = admin.ListGrants(pb.ListGrantsRequest(page_size=500, page_token=token))
            grants += reply.grants
            token = reply.next_page_token
            if not token:
                break
    if as_json:
        render.out(shapes.dump({"grants": [shapes.full_grant(grant) for grant in grants]}))
        return
    if not grants:
        render.say("no grants yet; make one: mosaic federation grant create --help")
        return
    render.table(
        ("status", "id", "peer", "subject", "expires", "last used"),
        (
            (
                render.state_text(shapes.enum_word(grant, "status")),
                grant.id,
                grant.peer,
                grant.subject,
                render.when(grant, "expires_at", "never"),
                render.when(grant, "last_used_at", "never"),
            )
            for grant in grants
        ),
        fold=("id",),
    )


@app.command("show")
def show(grant: GrantId, gateway: Gateway = GATEWAY_HERE, *, as_json: Json = False) -> None:
    """Show one grant with its scope.

    \b
    Example:
      mosaic federation grant show 6f1c2f0e-0d5c-4b8e-9f43-8c1d6c0f1a2b
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        reply = admin.GetGrant(pb.GetGrantRequest(id=grant))
    if as_json:
        render.out(shapes.dump({"grant": shapes.full_grant(reply.grant)}))
    else:
        _show(reply.grant)


@app.command("token")
def token(
    grant: GrantId,
    gateway: Gateway = GATEWAY_HERE,
    *,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Keep the grant closed until `grant confirm` names the fingerprint.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the token with which the peer enrolls. It works once, and only for a short time.

    The token is a secret: it is printed alone on standard output, and never shown again.

    \b
    Examples:
      mosaic federation grant token GRANT > token
      mosaic federation grant token GRANT --confirm
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        reply = admin.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=grant, confirm=confirm))
    if as_json:
        render.out(shapes.dump({"token": reply.token, "expires_at": shapes.instant(reply, "expires_at")}))
        return
    render.out(reply.token)
    render.say(f"it works once, and ends {render.when(reply, 'expires_at')}")
    render.say("next, at the other gateway: mosaic federation peer add --user USER TOKEN")
    if confirm:
        render.say(f"then, here: mosaic federation grant confirm {grant} FINGERPRINT (as the other side prints it)")


@app.command("confirm")
def confirm(
    grant: GrantId,
    fingerprint: Annotated[str, typer.Argument(help="SHA-256 of the certificate, as the peer's operator reads it.")],
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """Open a grant whose token was made with --confirm, once both sides have compared the fingerprint.

    \b
    Example:
      mosaic federation grant confirm GRANT 3b1f…
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    with connect(gateway) as admin:
        reply = admin.ConfirmGrant(pb.ConfirmGrantRequest(id=grant, fingerprint=fingerprint))
    if as_json:
        render.out(shapes.dump({"grant": shapes.full_grant(reply.grant)}))
    else:
        _show(reply.grant)


@app.command("scope")
def scope(
    grant: GrantId,
    document: Annotated[
        str, typer.Option("--scope", metavar="FILE", help="A file, - for standard input, or the JSON.")
    ],
    gateway: Gateway = GATEWAY_HERE,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what the peer would gain and lose.")] = False,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Put another scope in force, from the next call on, and show what the peer gains and loses.

    What it loses is also taken out of its caches: the command then ends with a receipt, as `grant revoke` does.

    \b
    Examples:
      mosaic federation grant scope GRANT --scope narrower.json --dry-run
      mosaic federation grant scope GRANT --scope narrower.json
    """
    from cli import render, shapes, waiting
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    request = pb.UpdateGrantScopeRequest(
        id=grant, scope=read_argument(document, "scope"), validate_only=dry_run, no_wait=no_wait
    )
    with connect(gateway) as admin, waiting.going_on(f"mosaic federation grant scope {grant} with the same scope"):
        replies = iter(admin.UpdateGrantScope(request))
        first = next(replies)
        if not as_json:
            _show_change(first, dry_run=dry_run)
        taken = waiting.follow(replies, no_wait=no_wait)
    if as_json:
        shape = {
            "grant": shapes.full_grant(first.grant),
            "warnings": list(first.warnings),
            "gains": list(first.gains),
            "losses": list(first.losses),
            "applied": first.applied,
            "receipt": shapes.taken(taken[0]) if taken else None,
        }
        render.out(shapes.dump(shape))
        return
    for one in taken:
        waiting.show(one)


@app.command("revoke")
def revoke(
    grant: GrantId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept, and told to the peer.")] = "",
    gateway: Gateway = GATEWAY_HERE,
    *,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Take a grant back, for good. From the first moment on, this gateway refuses every call under it.

    The command ends with a receipt: from which instant on no cache of the peer can serve anything of it, and why.
    That takes one round trip while the peer is connected, and its lease (about 33 seconds at most) where it is not.
    Interrupting the command does not stop the revocation; asking again shows the same one.

    \b
    Examples:
      mosaic federation grant revoke GRANT --reason "contract ended"
      mosaic federation grant revoke GRANT --no-wait --json
    """
    from cli import render, shapes, waiting
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    request = pb.RevokeGrantRequest(id=grant, reason=reason, no_wait=no_wait)
    with connect(gateway) as admin, waiting.going_on(f"mosaic federation grant revoke {grant}"):
        taken = waiting.follow(admin.RevokeGrant(request), no_wait=no_wait)
    for one in taken:
        if as_json:
            render.out(shapes.dump({"receipt": shapes.taken(one)}))
        else:
            waiting.show(one)


def _show_change(reply: "pb.UpdateGrantScopeResponse", *, dry_run: bool) -> None:
    from cli import render

    for warning in reply.warnings:
        render.say(f"warning: {warning}")
    for sign, words in (("gains", reply.gains), ("loses", reply.losses)):
        for word in words:
            render.out(f"{sign}  {word}")
    if dry_run:
        render.say("nothing was changed")
    elif not reply.applied:
        render.say("this scope is in force already")
    elif not (reply.gains or reply.losses):
        render.say("the new scope is in force; it opens what the old one did")
    else:
        render.say("the new scope is in force from the next call on")


def _show(grant: "pb.GrantInfo") -> None:
    from cli import render, shapes

    certificate = grant.certificate
    render.facts(
        (
            ("grant", grant.id),
            ("status", render.state_text(shapes.enum_word(grant, "status"))),
            ("peer", grant.peer),
            ("subject", grant.subject),
            ("scope", grant.scope),
            ("created", render.when(grant, "created_at")),
            ("expires", render.when(grant, "expires_at", "never")),
            ("last used", render.when(grant, "last_used_at", "never")),
        )
    )
    if grant.HasField("certificate"):
        ends = render.when(certificate, "not_after")
        render.facts((("certificate", certificate.serial), ("fingerprint", certificate.fingerprint), ("ends", ends)))
    if grant.HasField("revoked_at"):
        render.facts((("revoked", render.when(grant, "revoked_at")), ("reason", grant.revoked_reason or "-")))


def _seconds(text: str) -> int:
    if not text:
        return 0
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is not a time such as 90d, 12h or 30m", param_hint="--expires")
    return int(match[1]) * UNITS[match[2]]
