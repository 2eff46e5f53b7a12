"""`grant token` and `grant confirm`: the grant's side of enrollment."""

from typing import Annotated

import typer

from mosaic_cli.completion import GrantId
from mosaic_cli.options import UNSET_GATEWAY, Gateway, Json


def token(
    grant: GrantId,
    gateway: Gateway = UNSET_GATEWAY,
    *,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Keep the grant closed until `grant confirm` names the fingerprint.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create the token with which the peer enrolls. It works once, within a short time.

    The token is a secret: it is printed alone on standard output, and never shown again. A new token invalidates the
    previous one.

    \b
    Examples:
      mosaic federation grant token 6f1c2f0e-0d5c-4b8e-9f43-8c1d6c0f1a2b > token
      mosaic federation grant token 6f1c --confirm
    """
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.lookup import grant_at
    from mosaic_cli.output import console, models, shapes
    from mosaic_cli.output.times import when

    with grant_at(gateway, grant) as (admin, grant_id):
        reply = admin.CreateEnrollmentToken(pb.CreateEnrollmentTokenRequest(grant_id=grant_id, confirm=confirm))
    if as_json:
        console.write(shapes.dump({"token": reply.token, "expires_at": models.instant(reply, "expires_at")}))
        return
    console.write(reply.token)
    console.message(f"it works once, and expires {when(reply, 'expires_at')}")
    console.message("next, at the peer's gateway: mosaic federation peer add --user USER TOKEN")
    if confirm:
        console.message(f"then, here: mosaic federation grant confirm {grant_id} FINGERPRINT (as the peer prints it)")


def confirm(
    grant: GrantId,
    fingerprint: Annotated[str, typer.Argument(help="SHA-256 of the certificate, from the peer's operator.")],
    gateway: Gateway = UNSET_GATEWAY,
    *,
    as_json: Json = False,
) -> None:
    """Activate a grant whose token was created with --confirm, after both operators have compared the fingerprint.

    Get the fingerprint from the peer's operator through another channel. Do not take it from `grant show`, which
    prints the certificate of any party that used the token.

    \b
    Examples:
      mosaic federation grant confirm 6f1c2f0e-0d5c-4b8e-9f43-8c1d6c0f1a2b \\
          3b1f9a0c5d7e2f4861a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8
      mosaic federation grant confirm 6f1c 3B:1F:9A:0C:...
    """
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.grants import shapes as grant_shapes
    from mosaic_cli.grants import view
    from mosaic_cli.lookup import grant_at
    from mosaic_cli.output import console, shapes

    with grant_at(gateway, grant) as (admin, grant_id):
        reply = admin.ConfirmGrant(pb.ConfirmGrantRequest(id=grant_id, fingerprint=fingerprint))
    if as_json:
        console.write(shapes.dump({"grant": grant_shapes.grant(reply.grant)}))
    else:
        view.show(reply.grant)
