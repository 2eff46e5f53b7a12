"""Gateways as separate processes, and the real command line against them."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from mosaic_cli.main import main
from tests.support.gateway_pair import rows_jsonl

MOSAIC = (sys.executable, "-m", "mosaic_cli")
ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a command: no gateway selected, this source tree first on the path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MOSAIC_", "OTEL_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def mosaic(*arguments: str, cwd: Path, stdin: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
    """Run one command as a process until it ends."""
    return subprocess.run(
        [*MOSAIC, *arguments],
        cwd=cwd,
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def mosaic_here(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run one command in this process, which is faster than a new interpreter."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@dataclass
class GatewayProcesses:
    """A directory of gateways, and the processes that serve them."""

    directory: Path
    processes: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    """Additional environment variables of the gateways."""

    @classmethod
    @contextlib.contextmanager
    def temporary(cls) -> Iterator[Self]:
        """Yield an empty directory of gateways; stop them and remove it afterwards."""
        served = cls(Path(tempfile.mkdtemp(prefix="m")))
        try:
            yield served
        finally:
            served.stop_all()

    def init(self, name: str, **options: str) -> None:
        """Create the gateway `name`.example in the directory `name` and import rows."""
        free = {"listen": "127.0.0.1:0", "enroll": "127.0.0.1:0", **options}
        words = [word for key, value in free.items() for word in (f"--{key}", value)]
        made = mosaic_here("gateway", "init", name, "--name", f"{name}.example", *words, cwd=self.directory)
        assert made.returncode == 0, made.stderr
        (self.directory / "rows.jsonl").write_bytes(rows_jsonl())
        filled = mosaic_here("gateway", "import", "rows.jsonl", "--gateway", name, cwd=self.directory)
        assert filled.returncode == 0, filled.stderr

    def command(self, *words: str) -> str:
        """Run a command that must succeed in this process; return what it printed."""
        ran = mosaic_here(*words, cwd=self.directory)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def listed(self, key: str, *words: str) -> list[dict[str, Any]]:
        """Return the entries that a command prints as JSON, of all pages."""
        entries: list[dict[str, Any]] = []
        token: list[str] = []
        while True:
            page = json.loads(self.command(*words, *token, "--json"))
            entries += page[key]
            if not page.get("next_page_token"):
                return entries
            token = ["--page-token", page["next_page_token"]]

    def start(self, name: str, *options: str) -> list[str]:
        """Start a gateway and wait until it serves; return what it printed."""
        self.launch(name, *options)
        return self.ready(name)

    def start_all(self, *names: str) -> None:
        """Start several gateways concurrently."""
        for name in names:
            self.launch(name)
        for name in names:
            self.ready(name)

    def launch(self, name: str, *options: str) -> None:
        """Start the process of a gateway without waiting for it."""
        with (self.directory / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [*MOSAIC, "gateway", "serve", "--gateway", name, *options],
                cwd=self.directory,
                env=environment(PYTHONUNBUFFERED="1", **self.variables),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.processes[name] = process

    def ready(self, name: str) -> list[str]:
        """Wait until a launched gateway serves; return what it printed."""
        process = self.processes[name]
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("  admin"):
                return lines
        raise AssertionError((self.directory / f"{name}.log").read_text())

    @contextlib.contextmanager
    def suspended(self, name: str) -> Iterator[None]:
        """Suspend a gateway's process inside the context; its connections stay open."""
        self.processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[name].send_signal(signal.SIGCONT)

    def stop_all(self) -> None:
        """Stop every gateway and remove the directory."""
        for process in self.processes.values():
            process.terminate()
        for name in tuple(self.processes):
            self.stop(name)
        shutil.rmtree(self.directory, ignore_errors=True)

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        """Stop a gateway and return its exit code."""
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(20)
        finally:
            process.kill()
            if process.stdout is not None:
                process.stdout.close()
        return process.returncode


@pytest.fixture(scope="session")
def worker_gateways() -> Iterator[GatewayProcesses]:
    """`home` and `work`, each in its own process, started once in each worker of the test run."""
    with GatewayProcesses.temporary() as served:
        for name in ("home", "work"):
            served.init(name)
        served.start_all("home", "work")
        yield served


@pytest.fixture(scope="module")
def served(worker_gateways: GatewayProcesses) -> Iterator[GatewayProcesses]:
    """`home` and `work` of this worker. Peers are removed and grants revoked after each test file."""
    yield worker_gateways
    for grant in worker_gateways.listed("grants", "federation", "grant", "list", "-g", "work"):
        worker_gateways.command("federation", "grant", "revoke", grant["id"], "--no-wait", "-g", "work")
    for peer in worker_gateways.listed("peers", "federation", "peer", "list", "-g", "home"):
        worker_gateways.command("federation", "peer", "remove", peer["name"], "--user", peer["user"], "-g", "home")
