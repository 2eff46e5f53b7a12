"""`mosaic demo`: run two gateways on this machine, and show each step as a command."""

from typing import Annotated, Final

import typer

HELP: Final = """Watch a home gateway read a work gateway's data over mutual TLS.

Starts two gateways as separate processes in a temporary directory, on free loopback ports, and shows each step as the
command that an operator types, with its real output. At the end it stops the gateways and removes the directory.

\b
Examples:
  mosaic demo
  mosaic demo --keep
"""


def demo(
    *,
    keep_directory: Annotated[bool, typer.Option("--keep", help="Do not remove the directory.")] = False,
) -> int:
    """Run the demo. Returns 1 if the result of a step differs from the narration."""
    from mosaic_cli.demo.environment import DemoEnvironment, StepError
    from mosaic_cli.demo.script import run_script

    with DemoEnvironment(keep_directory=keep_directory) as environment:
        try:
            run_script(environment)
        except StepError as e:
            environment.fail(str(e))
            return 1
    if keep_directory:
        typer.echo(f"kept: {environment.directory}", err=True)
    return 0
