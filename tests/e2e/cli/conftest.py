"""Fixtures of the command line's tests, against two gateways in separate processes."""

import pytest

from tests.support.cli_runner import Cli
from tests.support.gateway_processes import GatewayProcesses


@pytest.fixture
def cli(served: GatewayProcesses, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in this process, in the directory of the gateways."""
    monkeypatch.chdir(served.directory)
    monkeypatch.delenv("MOSAIC_GATEWAY", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return Cli(capsys)
