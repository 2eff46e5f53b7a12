"""`mosaic demo`: two real gateways on this machine, and every step as the command that it is."""

from typing import Annotated, Final

import typer

__all__ = ["HELP", "demo"]

HELP: Final = """Watch a home gateway read a work gateway's data over mutual TLS.

Starts two gateways as processes of their own in a temporary directory, on free loopback ports, and shows each step as
the command that a person would type, with its real output. Leaves nothing running and nothing behind.

\b
Examples:
  mosaic demo
  mosaic demo --keep
"""


def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the directory, to go on by hand.")] = False,
) -> int:
    """Run the demo; return 1 where a step did not do what the narration says."""
    from mosaic_cli.demo.environment import DemoEnvironment, StepError
    from mosaic_cli.demo.script import run_script

    with DemoEnvironment(keep=keep) as environment:
        try:
            run_script(environment)
        except StepError as e:
            environment.fail(str(e))
            return 1
    if keep:
        typer.echo(f"kept: {environment.directory}", err=True)
    return 0
