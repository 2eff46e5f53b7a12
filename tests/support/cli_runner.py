"""Runs commands in the test's own process."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from mosaic_cli.main import command_tree, main

TASKS_AND_NOTES = '{"resources":["tasks","notes"]}'


class CommandResult(NamedTuple):
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The printed JSON."""
        assert self.out, self.err
        return json.loads(self.out)

    @property
    def squeezed(self) -> str:
        """Stdout with each run of blanks as one blank."""
        return " ".join(self.out.split())


class Cli:
    """Runs commands in this process, in the directory of the gateways. A call asserts the command's exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, line: str, *more: str, code: int = 0) -> CommandResult:
        self._capsys.readouterr()
        ran = CommandResult(main([*line.split(), *more]), *self._capsys.readouterr())
        assert ran.code == code, ran
        return ran

    def enroll(self, name: str = "", *, user: str = "ada", scope: str = TASKS_AND_NOTES) -> str:
        """Enroll a user at work as the peer `name`, with the subject of the same name; return the grant's id."""
        create = "federation grant create -g work --peer home.example --json --subject"
        grant = str(self(create, user, "--scope", scope).json["grant"]["id"])
        token = self(f"federation grant token {grant} -g work").out.strip()
        self(f"federation peer add -g home --user {user} --name", name, token)
        return grant

    def enrolled(self, scope: str = TASKS_AND_NOTES) -> str:
        """Enroll ada at work unless a peer exists; return the grant's id."""
        peers = self("federation peer list -g home --json").json["peers"]
        return str(peers[0]["grant_id"]) if peers else self.enroll(scope=scope)


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a command and, if it is a group, every command below it, with their paths."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*path, name))


GROUPS = {path: command for path, command in walk(command_tree()) if hasattr(command, "commands")}
COMMANDS = {path: command for path, command in walk(command_tree()) if not hasattr(command, "commands")}
"""All groups and all other commands of the command line, by path."""
