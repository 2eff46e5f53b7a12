"""Commands run in the test's own process, as a shell would run them."""

import json
from typing import Any, NamedTuple

import pytest

from mosaic_cli.main import main


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


class Cli:
    """Runs commands in this process, in the directory of the gateways.

    A call asserts the command's exit code unless `any_code` is set.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str], *, any_code: bool = False) -> None:
        self._capsys = capsys
        self._any_code = any_code

    def __call__(self, line: str, *more: str, code: int = 0) -> Ran:
        self._capsys.readouterr()
        ran = Ran(main([*line.split(), *more]), *self._capsys.readouterr())
        assert self._any_code or ran.code == code, ran
        return ran
