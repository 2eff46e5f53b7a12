"""The command line in the test's process, in the directory of two gateways as processes."""

import pytest

from tests.support.cli_runner import Cli
from tests.support.gateway_processes import Served


@pytest.fixture
def cli(served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, in process."""
    monkeypatch.chdir(served.directory)
    monkeypatch.delenv("MOSAIC_GATEWAY", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return Cli(capsys)
