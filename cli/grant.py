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


@app.command("revoke")
def revoke(
    grant: GrantId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept with the grant.")] = "",
    gateway: Gateway = GATEWAY_HERE,
    *,
    as_json: Json = False,
) -> None:
    """Take a grant back, for good. From the answer on, this gateway refuses every call under it.

    What the peer holds in its cache ends with its lease, within 30 seconds.

    \b
    Example:
      mosaic federation grant revoke GRANT --reason "contract ended"
    """
    from cli import render, shapes
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb

    receipt = pb.RevocationReceipt()
    with connect(gateway) as admin:
        for reply in admin.RevokeGrant(pb.RevokeGrantRequest(id=grant, reason=reason)):
            if reply.HasField("receipt"):
                receipt = reply.receipt
    if as_json:
        render.out(shapes.dump({"receipt": shapes.receipt(receipt)}))
        return
    render.facts(
        (
            ("grant", receipt.grant_id),
            ("revoked", shapes.instant(receipt, "revoked_at") or "-"),
            ("reason", receipt.reason or "-"),
        )
    )
    if not receipt.HasField("effective_at"):
        render.say("every new call is refused; answers in the peer's cache end with their leases, within 30 s")


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
