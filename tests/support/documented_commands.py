"""Documents whose commands are typed as they stand there, and whose shown lines must appear.

In a `console` block, `$ ` begins a command; what follows it is what one sees: each line must be printed, in this order,
where `…` stands for anything. A block below `<!-- not run: why -->` is left out.
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
USUAL = frozenset({0, 3})
"""Exit codes of a command below which no `error:` is shown; 3 is `status` that found a peer unhealthy."""
ENDING_S = 20.0
LOOKING = re.compile(r"federation (audit|status)\b")
LOOKING_S = 5.0


class Step(NamedTuple):
    """A command and the lines that the document shows below it."""

    command: str
    shown: tuple[str, ...]


def steps(text: str) -> list[Step]:
    """Return every command of a document that is run, in order."""
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
    """Return the expression of a line or message in which `…` stands for anything, and blanks for any blanks."""
    blanks, anything = r"[ \t]+", ".*?"
    words = blanks.join(anything.join(re.escape(part) for part in word.split("…")) for word in shown.split())
    return words.replace(f"{blanks}{anything}", anything).replace(f"{anything}{blanks}", anything)


class Typist:
    """A directory in which a reader types a document's commands; ports, ids and fingerprints are the real ones."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.words = {port: _free_port() for port in PORTS}
        self.printed = ""
        """Everything that was printed so far."""
        self.max_lease_s = ""
        """What gateways get as `server.max_lease_s`, if not the default."""
        self.serving: list[subprocess.Popen[bytes]] = []
        (directory / "cli").symlink_to(ROOT / "cli")
        (directory / "bin").mkdir()
        for name, what in (("mosaic", "-m mosaic_cli "), ("python", "")):
            script = directory / "bin" / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {what}"$@"\n', encoding="utf-8")
            script.chmod(0o755)
        self.environment = environment(PATH=f"{directory / 'bin'}:{os.environ['PATH']}", COLUMNS="200")

    def follow(self, text: str) -> None:
        """Type every command of a document, and hold what is printed against what is shown."""
        for step in steps(text):
            self.take(step)

    def take(self, step: Step) -> str:
        """Type one command; return what it printed, both streams together."""
        wanted = self._real(r"[\s\S]*?\n[\s\S]*?".join(pattern(line) for line in step.shown))
        end = time.monotonic() + (LOOKING_S if LOOKING.search(step.command) else 0)
        code, printed = self.type(step.command)
        while not re.search(wanted, printed) and time.monotonic() < end:
            code, printed = self.type(step.command)  # a person looks again: the audit is written within a second
        refused = any(line.startswith("error:") for line in step.shown)
        assert (code not in USUAL) if refused else (code in USUAL), f"{step.command}\nexit code {code}\n{printed}"
        assert re.search(wanted, printed), f"{step.command}\nshows {step.shown}\n{printed}"
        return printed

    def type(self, command: str) -> tuple[int, str]:
        """Run one command as typed; return its exit code and output. What serves goes on in the background."""
        command = self._real(command)
        if "gateway serve" in command:
            return self._serve(command)
        code, printed = self._here(command) if PLAIN.fullmatch(command) else self._in_a_shell(command)
        if command.startswith("kill $"):
            self._wait_for_ends()
        self._learn(command, printed)
        return code, printed

    def close(self) -> None:
        """Stop what serves."""
        for process in self.serving:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        self._wait_for_ends(all_of_them=True)

    def _in_a_shell(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            command, shell=True, cwd=self.directory, env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def _here(self, command: str) -> tuple[int, str]:
        """Run a command without a shell in this process, which saves the time to start one."""
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
            patch.setenv("COLUMNS", self.environment["COLUMNS"])
            patch.delenv("MOSAIC_GATEWAY", raising=False)
            patch.chdir(self.directory)
            code = main(shlex.split(command)[1:])
        return code, printed.getvalue()

    def _real(self, text: str) -> str:
        for word, real in self.words.items():
            text = text.replace(word, real)
        return text

    def _learn(self, command: str, printed: str) -> None:
        self.printed += printed
        if self.max_lease_s and (made := re.search(r"gateway init (\w+)", command)):
            settings = self.directory / made[1] / "gateway.toml"
            text = settings.read_text(encoding="utf-8")
            settings.write_text(text.replace("# max_lease_s = 30.0", f"max_lease_s = {self.max_lease_s}"))
        if "grant create" in command and "--dry-run" not in command and (grants := ID.findall(printed)):
            self.words["GRANT_ID"] = grants[-1]
        if "peer add" in command and (found := FINGERPRINT.search(printed)):
            self.words["FINGERPRINT"] = found[1]

    def _serve(self, command: str) -> tuple[int, str]:
        path = self.directory / f"serve-{len(self.serving)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                f"exec {command}", shell=True, cwd=self.directory, env=self.environment, stdout=log, stderr=log
            )
        end = time.monotonic() + ENDING_S
        while process.poll() is None and time.monotonic() < end:
            if re.search(r"^  admin |waiting for it to exit", path.read_text(), re.MULTILINE):
                self.serving.append(process)
                return 0, path.read_text()
            time.sleep(0.05)  # another process is waited for
        self.printed += path.read_text()
        return process.wait(ENDING_S), path.read_text()

    def _wait_for_ends(self, *, all_of_them: bool = False) -> None:
        """Wait until what was told to stop has stopped."""
        end = time.monotonic() + ENDING_S
        while self.serving and time.monotonic() < end:
            gone = [process for process in self.serving if process.poll() is not None]
            self.serving = [process for process in self.serving if process not in gone]
            if gone and not all_of_them:
                return
            time.sleep(0.05)  # another process is waited for
        assert not self.serving or all_of_them, "nothing stopped"


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def typist() -> Iterator[Typist]:
    """An empty directory with the command on the path."""
    directory = Path(tempfile.mkdtemp(prefix="m"))
    typist = Typist(directory)
    try:
        yield typist
    finally:
        typist.close()
        shutil.rmtree(directory, ignore_errors=True)
