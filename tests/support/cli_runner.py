"""Runs commands in the test's own process."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mosaic_cli.main import main


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


def run_command(*arguments: str, cwd: Path | None = None) -> CommandResult:
    """Run one command, in the directory `cwd` if given."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd) if cwd else contextlib.nullcontext(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main([*arguments])
    return CommandResult(code, out.getvalue(), err.getvalue())


class Cli:
    """Runs commands in this process, in the directory of the gateways.

    A call asserts the command's exit code unless `any_code` is set.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str], *, any_code: bool = False) -> None:
        self._capsys = capsys
        self._any_code = any_code

    def __call__(self, line: str, *more: str, code: int = 0) -> CommandResult:
        self._capsys.readouterr()
        ran = CommandResult(main([*line.split(), *more]), *self._capsys.readouterr())
        assert self._any_code or ran.code == code, ran
        return ran
