"""`mosaic federation query`: read rows of this gateway and of peers as one of its users."""

from typing import Annotated

import typer

from mosaic_cli import completion
from mosaic_cli.options import UNSET_GATEWAY, Gateway, Json, command_group

app = command_group("Read rows of this gateway and of peers as one of its users.")
User = Annotated[
    str,
    typer.Option(
        "--user", "-u", metavar="USER", help="The local user in whose name to query.", autocompletion=completion.users
    ),
]
Source = Annotated[
    str,
    typer.Option(
        "--source",
        "-s",
        metavar="SOURCE",
        help="local, federated:PEER, or all.",
        autocompletion=completion.sources,
    ),
]
PageSize = Annotated[
    int,
    typer.Option(
        "--page-size", min=0, max=1_000, help="The most rows; 0: the default of 50. A grant may set a lower limit."
    ),
]
PageToken = Annotated[
    str, typer.Option("--page-token", metavar="TOKEN", help="The token for the next page, from an earlier answer.")
]
Resource = Annotated[
    str,
    typer.Argument(help="tasks, notes, memory, or another resource that is open.", autocompletion=completion.resources),
]
Session = Annotated[
    str,
    typer.Option(
        "--session",
        metavar="ID",
        help="Any name. Queries of one session report an unreachable peer once, and then skip it.",
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget", metavar="SECONDS", min=0, max=300, help="Time limit for each peer; 0: the gateway's setting."
    ),
]


@app.command("list")
def list_rows(
    resource: Resource,
    user: User,
    source: Source = "local",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", metavar="FIELD=VALUE", help="Only rows with this value; repeatable."),
    ] = None,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    gateway: Gateway = UNSET_GATEWAY,
    *,
    session: Session = "",
    budget: Budget = 0.0,
    as_json: Json = False,
) -> None:
    """List rows of a resource, newest first.

    On a terminal, `--source all` shows the rows of each source as it answers; in a pipe, one table in one order.
    A source that does not answer is reported on standard error and does not fail the query.

    \b
    Examples:
      mosaic federation query list tasks --user ada --source all
      mosaic federation query list tasks --user ada --source federated:work.example --budget 0.5
      mosaic federation query list tasks --user ada --where status=open --page-size 10
    """
    from federation.v1 import federation_pb2
    from mosaic_cli.query.run import QueryCommand

    request = federation_pb2.ListRequest(resource=resource, where=_pairs(where or []), page_size=page_size)
    if page_token:
        request.page_token = page_token
    command = QueryCommand(gateway=gateway, user=user, source=source, session=session, budget=budget, as_json=as_json)
    command.print_rows(list=request)


@app.command("get")
def get(
    resource: Resource,
    row_id: Annotated[str, typer.Argument(metavar="ID", help="The row's id.")],
    user: User,
    source: Source = "local",
    gateway: Gateway = UNSET_GATEWAY,
    *,
    session: Session = "",
    budget: Budget = 0.0,
    as_json: Json = False,
) -> None:
    """Show one row. With `--source all`, show it from each source that has it.

    \b
    Example:
      mosaic federation query get tasks T-17 --user ada --source federated:work.example
    """
    from federation.v1 import federation_pb2
    from mosaic_cli.query.run import QueryCommand

    command = QueryCommand(gateway=gateway, user=user, source=source, session=session, budget=budget, as_json=as_json)
    command.print_row(federation_pb2.GetRequest(resource=resource, id=row_id))


@app.command("search")
def search(
    terms: Annotated[list[str], typer.Argument(metavar="TERMS", help="The search terms.")],
    user: User,
    source: Source = "local",
    resources: Annotated[
        list[str] | None,
        typer.Option(
            "--resource",
            "-r",
            help="Search only this resource; repeatable.",
            autocompletion=completion.resources,
        ),
    ] = None,
    page_size: PageSize = 0,
    page_token: PageToken = "",
    gateway: Gateway = UNSET_GATEWAY,
    *,
    session: Session = "",
    budget: Budget = 0.0,
    as_json: Json = False,
) -> None:
    """Search rows for terms, best match first.

    \b
    Example:
      mosaic federation query search certificate renewal --user ada --source all --session morning
    """
    from federation.v1 import federation_pb2
    from mosaic_cli.query.run import QueryCommand

    request = federation_pb2.SearchRequest(
        query=" ".join(terms), resources=resources or [], page_size=page_size, page_token=page_token
    )
    command = QueryCommand(gateway=gateway, user=user, source=source, session=session, budget=budget, as_json=as_json)
    command.print_rows(search=request)


@app.command("capabilities")
def capabilities(
    user: User,
    source: Source = "local",
    gateway: Gateway = UNSET_GATEWAY,
    *,
    session: Session = "",
    budget: Budget = 0.0,
    as_json: Json = False,
) -> None:
    """Show what the user may read from a source.

    \b
    Example:
      mosaic federation query capabilities --user ada --source all
    """
    from mosaic_cli.query.run import QueryCommand

    command = QueryCommand(gateway=gateway, user=user, source=source, session=session, budget=budget, as_json=as_json)
    command.print_capabilities()


def _pairs(values: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in values:
        field, equals, value = text.partition("=")
        if not (field and equals):
            raise typer.BadParameter(f"{text!r} is not FIELD=VALUE, such as status=open", param_hint="--where")
        if field in pairs:
            raise typer.BadParameter(f"{field} is given twice; rows must equal all of them", param_hint="--where")
        pairs[field] = value
    return pairs
