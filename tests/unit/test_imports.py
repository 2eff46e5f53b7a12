"""The heavy packages that are not imported by the imports and commands that users wait for."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

# Top-level packages and modules, each with what imports it when it is needed.
FOR_A_DATABASE: Final = {
    "alembic",
    "mako",
    "sqlalchemy.orm",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.dialects.postgresql",
}
FOR_EXPORTS: Final = {
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "opentelemetry.instrumentation",
    "prometheus_client",
}
FOR_OTHERS: Final = {"mcp", "pydantic", "rapidfuzz", "rich", "pygments", "packaging", "httpx"}
FOR_A_GATEWAY: Final = {
    "aiosqlite",
    "cryptography",
    "federation.client",
    "federation.server",
    "federation.session",
    "federation.store",
    "google.rpc",
    "opentelemetry",
    "orjson",
    "sqlalchemy",
}
FOR_CALLS: Final = {"asyncio", "grpc", "google.protobuf", "federation.config", "federation.v1", "tomllib"}
LATER: Final = FOR_A_DATABASE | FOR_EXPORTS | FOR_OTHERS

CASES: Final = {
    "import federation": ("import federation", LATER | FOR_A_GATEWAY | FOR_CALLS),
    "import federation.gateway": ("import federation.gateway", LATER),
    "mosaic --help": ("import mosaic_cli.main; mosaic_cli.main.main(['--help'])", LATER | FOR_A_GATEWAY | FOR_CALLS),
    "the modules of a status": (
        "import federation.admin.client, federation.v1.admin_pb2, mosaic_cli.status.page",
        LATER | FOR_A_GATEWAY,
    ),
}


def imported(code: str) -> set[str]:
    """The modules of a fresh interpreter after some code."""
    last = "import sys, json; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{last}"],
        env=unmeasured,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(run.stderr.splitlines()[-1]))


@pytest.mark.parametrize("case", CASES)
def test_heavy_packages_are_imported_when_they_are_needed(case: str) -> None:
    """A fresh interpreter holds none of the packages that this import or command does not use."""
    code, forbidden = CASES[case]

    assert imported(code) & forbidden == set()


def test_status_of_a_gateway_that_does_not_run_imports_no_heavy_package(tmp_path: Path) -> None:
    """The command goes through its options, its settings and the socket, and ends with one line and code 4."""
    (tmp_path / "gateway.toml").write_text('name = "home.example"\n', encoding="utf-8")
    code = (
        "import mosaic_cli.main\n"
        f"assert mosaic_cli.main.main(['federation', 'status', '--gateway', {str(tmp_path)!r}, '--user', 'ada']) == 4"
    )

    assert imported(code) & (LATER | FOR_A_GATEWAY) == set()


def test_a_command_imports_no_module_of_another_command() -> None:
    """The help of one command needs neither the modules of the others nor those that only its run needs."""
    modules = imported("import mosaic_cli.main; mosaic_cli.main.main(['federation', 'status', '--help'])")

    assert "mosaic_cli.status.command" in modules
    assert (
        modules
        & {
            "mosaic_cli.audit.command",
            "mosaic_cli.demo.command",
            "mosaic_cli.gateway.command",
            "mosaic_cli.grants.command",
            "mosaic_cli.mcp.command",
            "mosaic_cli.peers.command",
            "mosaic_cli.query.command",
        }
        == set()
    )


def test_a_gateway_that_exports_nothing_imports_no_sdk() -> None:
    """Telemetry without a variable that names an exporter has spans and metrics of the API alone."""
    code = (
        "from federation.config import TelemetryConfig\n"
        "from federation.telemetry.setup import setup_telemetry\n"
        "assert setup_telemetry(TelemetryConfig(), 'home.example', '1', {}).metrics is not None"
    )

    assert imported(code) & FOR_EXPORTS == set()
