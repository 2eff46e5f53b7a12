"""`mosaic user`: the users of this gateway in whose name peers read."""

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from mosaic_cli import completion
from mosaic_cli.options import UNSET_GATEWAY, Gateway, Json, command_group

if TYPE_CHECKING:
    from federation.v1 import admin_pb2 as pb

app = command_group("Remove a user, and every grant that reads as that user.")


@app.command("remove")
def remove(
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The user's id, as imported.", autocompletion=completion.users)
    ],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Stored with each grant and sent to its peer.")
    ] = "",
    gateway: Gateway = UNSET_GATEWAY,
    *,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until all caches are released.")] = False,
    as_json: Json = False,
) -> None:
    """Revoke every grant that reads as a user, permanently, and remove the user from every team.

    Rows that the user owns stay, with their teams. The command ends with a receipt for each grant, as
    `grant revoke` does. Interrupting the command does not stop the revocations.

    \b
    Examples:
      mosaic user remove ada
      mosaic user remove ada --reason "left the company" --no-wait
    """
    from federation.admin.client import connect
    from federation.v1 import admin_pb2 as pb
    from mosaic_cli.grants import receipts
    from mosaic_cli.output import console, shapes

    with connect(gateway) as admin, receipts.interruptible("mosaic federation grant revoke GRANT"):
        replies = iter(admin.RemoveUser(pb.RemoveUserRequest(user=user, reason=reason, no_wait=no_wait)))
        removal = next(replies).removal
        if not as_json:
            _show(removal)
        results = receipts.follow(replies, no_wait=no_wait)
    if as_json:
        console.write(
            shapes.dump(
                {
                    "removal": shapes.removal(removal),
                    "receipts": [shapes.revocation_result(result) for result in results],
                }
            )
        )
        return
    for result in results:
        console.write("")
        receipts.show(result)


def _show(removal: "pb.UserRemoval") -> None:
    from mosaic_cli.output import console

    rows = f"{removal.owned_rows} rows keep this user as their owner" if removal.owned_rows else "this user owns none"
    console.facts(
        (
            ("user", removal.user),
            ("grants", f"{len(removal.grants)} revoked"),
            ("teams", ", ".join(removal.teams) or "-"),
            ("rows", rows if removal.from_data else "the data provider is external, rows not counted"),
        )
    )
    if not removal.from_data:
        console.message("also remove the user from the external data provider: this gateway only revoked the grants")
    for name in removal.peers:
        console.message(
            f"still enrolled for this user: mosaic federation peer remove {quote(name)} --user {quote(removal.user)}"
        )
