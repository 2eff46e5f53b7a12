import pytest
from typer.testing import CliRunner

from mosaic_cli.options import UNSET_GATEWAY, Gateway, command_group


@pytest.mark.parametrize(
    ("arguments", "used"),
    [
        ("--gateway outer peer --gateway inner show --gateway own", "own"),
        ("--gateway outer peer --gateway inner show", "inner"),
        ("--gateway outer peer show", "outer"),
        ("peer show", "environment"),
    ],
)
def test_the_innermost_gateway_counts(arguments: str, used: str) -> None:
    """A command uses its own `--gateway`, else that of the nearest group, else that of the environment."""
    groups, commands = command_group("All commands."), command_group("Commands on peers.")

    @commands.command()
    def show(gateway: Gateway = UNSET_GATEWAY) -> None:
        """Print the gateway."""
        print(gateway)

    groups.add_typer(commands, name="peer")

    ran = CliRunner().invoke(groups, arguments.split(), env={"MOSAIC_GATEWAY": "environment"})

    assert ran.output == f"{used}\n"
