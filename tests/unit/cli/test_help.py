"""Help pages of all commands, and their import time."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mosaic_cli.main import main
from tests.support.cli_runner import COMMANDS, GROUPS

WITHOUT_JSON = {("demo",), ("gateway", "serve"), ("mcp",)}
SOCKET = "/nowhere/admin.sock"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """The help has an example command, and each option has a help text."""
    assert main([*path, "--help"]) == 0

    text = capsys.readouterr().out
    assert "Example" in text
    assert f"mosaic {' '.join(path)}" in text.split("Example")[1]
    assert all(option.help for option in COMMANDS[path].params if hasattr(option, "help"))


def examples(path: tuple[str, ...]) -> list[str]:
    """Return the commands below `Examples:` in a command's help, each in one line, up to what a shell does with it."""
    text = COMMANDS[path].help.replace("\b", "")
    section = re.split(r"^Examples?:$", text, flags=re.MULTILINE)[1].strip("\n").split("\n\n")[0]
    lines = re.sub(r"\\\n\s*", " ", section).splitlines()
    typed = [re.split(r" [|<>] ", f" {line.strip()} ")[-1 if " | mosaic" in line else 0].strip() for line in lines]
    return [re.sub(r"^(?:[A-Z_]+=\S+ )*", "", line) for line in typed]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_example_is_valid(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line below `Examples:` is a command of this name with valid arguments; none is run."""
    monkeypatch.setenv("MOSAIC_GATEWAY", "here")
    assert re.search(r"^Examples?:$", COMMANDS[path].help.replace("\b", ""), re.MULTILINE), COMMANDS[path].help
    shown = examples(path)
    assert shown
    for line in shown:
        words = shlex.split(line.partition(" -- ")[2] if line.startswith("claude ") else line)
        assert words[: len(path) + 1] == ["mosaic", *path], line
        # Raises a usage error for an option that is unknown, a value that is missing, and a word too many.
        COMMANDS[path].make_context(line, words[len(path) + 1 :])


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_every_group_has_help(path: tuple[str, ...]) -> None:
    """A group and each of its commands have a help text."""
    group = GROUPS[path]
    assert group.help
    assert all(inner.help for inner in group.commands.values())


@pytest.mark.parametrize("path", sorted(set(COMMANDS) - WITHOUT_JSON), ids=" ".join)
def test_every_command_offers_json(path: tuple[str, ...]) -> None:
    """Every command except the listed ones has `--json`."""
    assert "--json" in {name for option in COMMANDS[path].params for name in option.opts}


def test_help_imports_nothing_heavy() -> None:
    """Help and completion stay quick: neither gRPC nor SQLAlchemy nor rich is loaded for them."""
    code = (
        "import sys, json; from mosaic_cli.main import main; main(['federation', 'grant', 'create', '--help']);"
        "print(json.dumps(sorted(set(sys.modules) & {'grpc', 'sqlalchemy', 'rich', 'asyncio', 'cryptography'})))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(ran.stdout.splitlines()[-1]) == []


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`mosaic --version` prints the installed version."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mosaic ")


def test_a_bare_command_shows_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """`mosaic` alone, and a group alone, exit with 2."""
    for words in ([], ["federation"], ["federation", "grant"]):
        assert main(words) == 2


def test_a_gateway_that_does_not_run_has_an_exit_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command exits with 4 if the gateway does not run, and with 1 for another failure, as without a gateway."""
    (tmp_path / "gateway.toml").write_text(f'name = "home.example"\nadmin_socket = "{SOCKET}"\n', encoding="utf-8")

    assert main(["federation", "status", "--gateway", str(tmp_path)]) == 4
    assert "start it: mosaic gateway serve" in capsys.readouterr().err
    assert main(["federation", "status", "--gateway", str(tmp_path / "none")]) == 1
