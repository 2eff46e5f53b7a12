"""Commands run in the test's own process, as a shell would run them."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from mosaic_cli.main import command_tree, main

TASKS_AND_NOTES = '{"resources":["tasks","notes"]}'


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    words: str

    @property
    def json(self) -> Any:
        """The JSON that it printed."""
        assert self.out, self.words
        return json.loads(self.out)

    @property
    def squeezed(self) -> str:
        """What it printed, with single blanks."""
        return " ".join(self.out.split())


class Cli:
    """Runs commands in this process, in the directory of the gateways. A call asserts the command's exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, line: str, *more: str, code: int = 0) -> Ran:
        self._capsys.readouterr()
        ran = Ran(main([*line.split(), *more]), *self._capsys.readouterr())
        assert ran.code == code, ran
        return ran

    def enroll(self, name: str = "", *, user: str = "ada", scope: str = TASKS_AND_NOTES) -> str:
        """Let a user at home read work as the user of that name there; the grant's id. `name` is the peer's at home."""
        create = "federation grant create -g work --peer home.example --json --subject"
        grant = str(self(create, user, "--scope", scope).json["grant"]["id"])
        token = self(f"federation grant token {grant} -g work").out.strip()
        self(f"federation peer add -g home --user {user} --name", name, token)
        return grant

    def enrolled(self, scope: str = TASKS_AND_NOTES) -> str:
        """Let ada at home read work, unless a user does already; the grant's id."""
        peers = self("federation peer list -g home --json").json["peers"]
        return str(peers[0]["grant_id"]) if peers else self.enroll(scope=scope)


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a command and, if it is a group, every command below it, with their paths."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*path, name))


GROUPS = {path: command for path, command in walk(command_tree()) if hasattr(command, "commands")}
COMMANDS = {path: command for path, command in walk(command_tree()) if not hasattr(command, "commands")}
"""All groups, and all other commands, of the command line, by their path."""
