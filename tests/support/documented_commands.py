"""Runs the commands of a document and compares their output with the lines that the document shows.

In a `console` block, `$ ` begins a command; each line below it must be printed, in this order, where `…` matches
anything. A block below `<!-- not run: why -->` is skipped.
"""

import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from mosaic_cli.main import main
from tests.support.gateway_processes import ROOT, environment

ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FINGERPRINT = re.compile(r"fingerprint +([0-9a-f]{64})")
PORTS = ("7443", "7444", "8443", "8444", "9443", "9444", "9464")
PLAIN = re.compile(r"mosaic [^|<>;&$`\\\n]*")
"""A command that needs no shell."""
SUCCESS_CODES = frozenset({0, 3})
"""Exit codes of a command without a shown `error:`; 3 is `status` with an unhealthy peer."""
STOP_TIMEOUT_S = 20.0
RETRIED = re.compile(r"federation (audit|status)\b")
RETRY_S = 5.0


class Step(NamedTuple):
    """A command and the lines that the document shows below it."""

    command: str
    shown: tuple[str, ...]


def steps(text: str) -> list[Step]:
    """Return every command of a document that is not skipped, in order."""
    found = []
    for why, block in re.findall(
        r"(<!-- not run: [^>]* -->\s+)?```console\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE
    ):
        if not why:
            found += [_step(part) for part in re.split(r"^\$ ", textwrap.dedent(block), flags=re.MULTILINE)[1:]]
    return found


def _step(part: str) -> Step:
    lines = part.rstrip().splitlines()
    end = 1
    if here := re.search(r"<<'(\w+)'", lines[0]):
        end = lines.index(here[1]) + 1
    while lines[end - 1].endswith("\\"):
        end += 1
    return Step("\n".join(lines[:end]), tuple(line for line in lines[end:] if line.strip()))


def pattern(shown: str) -> str:
    """Return a regular expression for a line in which `…` matches anything, and a blank any run of blanks."""
    blanks, anything = r"[ \t]+", ".*?"
    words = blanks.join(anything.join(re.escape(part) for part in word.split("…")) for word in shown.split())
    return words.replace(f"{blanks}{anything}", anything).replace(f"{anything}{blanks}", anything)


class DocumentRunner:
    """Runs a document's commands in a directory, with the documented ports, ids and fingerprints replaced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.replacements = {port: _free_port() for port in PORTS}
        self.printed = ""
        """All output so far."""
        self.max_lease_s = ""
        """`server.max_lease_s` of new gateways; empty for the default."""
        self.serving: list[subprocess.Popen[bytes]] = []
        (directory / "cli").symlink_to(ROOT / "cli")
        (directory / "bin").mkdir()
        for name, what in (("mosaic", "-m mosaic_cli "), ("python", "")):
            script = directory / "bin" / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {what}"$@"\n', encoding="utf-8")
            script.chmod(0o755)
        self.environment = environment(PATH=f"{directory / 'bin'}:{os.environ['PATH']}", COLUMNS="200")

    def run_document(self, text: str) -> None:
        """Run every command of a document and compare its output with the shown lines."""
        for step in steps(text):
            self.run_step(step)

    def run_step(self, step: Step) -> str:
        """Run one command, compare its output with the shown lines, and return it (stdout and stderr together)."""
        wanted = self._replace(r"[\s\S]*?\n[\s\S]*?".join(pattern(line) for line in step.shown))
        end = time.monotonic() + (RETRY_S if RETRIED.search(step.command) else 0)
        code, printed = self.run(step.command)
        while not re.search(wanted, printed) and time.monotonic() < end:
            code, printed = self.run(step.command)  # the audit is written within a second
        refused = any(line.startswith("error:") for line in step.shown)
        assert (code not in SUCCESS_CODES) is refused, f"{step.command}\nexit code {code}\n{printed}"
        assert re.search(wanted, printed), f"{step.command}\nshows {step.shown}\n{printed}"
        return printed

    def run(self, command: str) -> tuple[int, str]:
        """Run one command; return its exit code and output. `gateway serve` continues in the background."""
        command = self._replace(command)
        if "gateway serve" in command:
            return self._serve(command)
        code, printed = self._run_in_process(command) if PLAIN.fullmatch(command) else self._run_in_shell(command)
        if command.startswith("kill $"):
            self._wait_for_exits()
        self._remember_ids(command, printed)
        return code, printed

    def close(self) -> None:
        """Stop the served gateways."""
        for process in self.serving:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        self._wait_for_exits(all_processes=True)

    def _run_in_shell(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            command, shell=True, cwd=self.directory, env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def _run_in_process(self, command: str) -> tuple[int, str]:
        """Run a command that needs no shell in this process, which is faster."""
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
            patch.setenv("COLUMNS", self.environment["COLUMNS"])
            patch.delenv("MOSAIC_GATEWAY", raising=False)
            patch.chdir(self.directory)
            code = main(shlex.split(command)[1:])
        return code, printed.getvalue()

    def _replace(self, text: str) -> str:
        # In one pass, because a real port may contain the digits of a port that a document shows.
        return re.sub("|".join(map(re.escape, self.replacements)), lambda match: self.replacements[match[0]], text)

    def _remember_ids(self, command: str, printed: str) -> None:
        self.printed += printed
        if self.max_lease_s and (made := re.search(r"gateway init (\w+)", command)):
            settings = self.directory / made[1] / "gateway.toml"
            text = settings.read_text(encoding="utf-8")
            settings.write_text(text.replace("# max_lease_s = 30.0", f"max_lease_s = {self.max_lease_s}"))
        if "grant create" in command and "--dry-run" not in command and (grants := ID.findall(printed)):
            self.replacements["GRANT_ID"] = grants[-1]
        if "peer add" in command and (found := FINGERPRINT.search(printed)):
            self.replacements["FINGERPRINT"] = found[1]

    def _serve(self, command: str) -> tuple[int, str]:
        path = self.directory / f"serve-{len(self.serving)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                f"exec {command}", shell=True, cwd=self.directory, env=self.environment, stdout=log, stderr=log
            )
        end = time.monotonic() + STOP_TIMEOUT_S
        while process.poll() is None and time.monotonic() < end:
            if re.search(r"^  admin |waiting for it to exit", path.read_text(), re.MULTILINE):
                self.serving.append(process)
                return 0, path.read_text()
            time.sleep(0.05)  # another process is waited for
        self.printed += path.read_text()
        return process.wait(STOP_TIMEOUT_S), path.read_text()

    def _wait_for_exits(self, *, all_processes: bool = False) -> None:
        """Wait until one signalled gateway, or every one, has stopped."""
        end = time.monotonic() + STOP_TIMEOUT_S
        while self.serving and time.monotonic() < end:
            exited = [process for process in self.serving if process.poll() is not None]
            self.serving = [process for process in self.serving if process not in exited]
            if exited and not all_processes:
                return
            time.sleep(0.05)  # another process is waited for
        assert not self.serving or all_processes, "nothing stopped"


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def document_runner() -> Iterator[DocumentRunner]:
    """A runner in an empty directory with `mosaic` on the path."""
    directory = Path(tempfile.mkdtemp(prefix="m"))
    document_runner = DocumentRunner(directory)
    try:
        yield document_runner
    finally:
        document_runner.close()
        shutil.rmtree(directory, ignore_errors=True)
