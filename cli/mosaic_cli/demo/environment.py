"""The environment of the demo: a temporary directory, the gateways' processes, and the real command line."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

START_S: Final = 20.0
"""Time limit of a gateway's start."""
STOP_S: Final = 10.0
COMMAND_S: Final = 30.0
WIDEST: Final = 100
MOSAIC: Final = (sys.executable, "-m", "mosaic_cli")
ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


class StepError(Exception):
    """The result of a step differs from the narration."""


class DemoEnvironment:
    """A context manager that runs gateways, and stops all of them on exit."""

    def __init__(self, *, keep_directory: bool = False) -> None:
        self._keep_directory = keep_directory
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._handlers = contextlib.ExitStack()
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._gateway = ""
        self.directory = Path()

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="mosaic-demo-"))
        self._handlers.enter_context(_handling(ENDING, _interrupt))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A further signal, such as a second Ctrl-C, must not interrupt the cleanup.
        with self._handlers, _handling((signal.SIGINT, *ENDING), signal.SIG_IGN):
            for name in tuple(self._processes):
                self._terminate(name)
            if not self._keep_directory:
                shutil.rmtree(self.directory, ignore_errors=True)

    def say(self, text: str) -> None:
        """Print a paragraph of the narration."""
        self._print(f"\n{textwrap.fill(text, _width())}\n", "1")

    def fail(self, problem: str) -> None:
        """Print the problem and the ends of the gateways' logs."""
        sys.stdout.flush()
        sys.stderr.write(f"\nerror: the demo failed: {problem}\n")
        for log in sorted(self.directory.glob("*.log")):
            text = log.read_text(errors="replace").strip()
            if text:
                sys.stderr.write(f"--- {log.name}\n{text[-2_000:]}\n")

    def export(self, gateway: str) -> None:
        """Set `MOSAIC_GATEWAY` for later commands."""
        self._command(f"export MOSAIC_GATEWAY={gateway}")
        self._gateway = gateway

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file into the directory."""
        (self.directory / name).write_bytes(content)

    def show_file(self, name: str, text: str) -> None:
        """Write a file and print it as `cat` does."""
        (self.directory / name).write_text(text, encoding="utf-8")
        self._command(f"cat {name}")
        self._print(text.rstrip())

    def check(self, holds: object, claim: str) -> None:
        """Raise `StepError` unless a claim of the narration holds."""
        if not holds:
            raise StepError(f"this claim does not hold: {claim}")

    def run(
        self, command: str, *, code: int = 0, expect: Sequence[str] = (), quiet: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run `mosaic …` as a process, print it with its output, and check its exit code and the texts in `expect`.

        `< FILE` and `> FILE` at the end redirect as in a shell. `quiet` prints neither command nor output.
        """
        if not quiet:
            self._command(command)
        arguments, source, target = shlex.split(command), "", ""
        while len(arguments) > 2 and arguments[-2] in {"<", ">"}:  # noqa: PLR2004 - the operator and the file
            *arguments, operator, file = arguments
            source, target = (file, target) if operator == "<" else (source, file)
        ran = subprocess.run(  # noqa: S603 - our own command
            [*MOSAIC, *arguments[1:]],
            cwd=self.directory,
            env=self._environment(),
            input=(self.directory / source).read_text(encoding="utf-8") if source else "",
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        if target:
            (self.directory / target).write_text(ran.stdout, encoding="utf-8")
        if not quiet:
            self._print(f"{'' if target else ran.stdout}{ran.stderr}".rstrip())
        if ran.returncode != code:
            raise StepError(f"`{command}` ended with exit code {ran.returncode}, not {code}: {ran.stderr.strip()}")
        if missing := [text for text in expect if text not in ran.stdout and text not in ran.stderr]:
            raise StepError(f"`{command}` did not print {', '.join(missing)}")
        if code and not quiet:
            self._print(f"[exit code {code}]", "2")
        return ran

    def serve(self, name: str) -> None:
        """Start a gateway as a process, and wait until it serves."""
        command = f"mosaic gateway serve --gateway {name}"
        self._command(f"{command} &")
        with (self.directory / f"{name}.log").open("w") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [*MOSAIC, *shlex.split(command)[1:]],
                cwd=self.directory,
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._processes[name] = process
        assert process.stdout is not None  # noqa: S101 - stdout=PIPE
        too_late = threading.Timer(START_S, process.kill)
        too_late.start()
        try:
            for line in process.stdout:
                self._print(line.rstrip("\n"))
                if line.startswith("  admin"):
                    return
        finally:
            too_late.cancel()
        raise StepError(f"{command}: the gateway did not start")

    def stop(self, name: str) -> None:
        """Stop a gateway as Ctrl-C would."""
        self._command(f"kill -INT $(cat {name}/gateway.lock)")
        code = self._terminate(name, signal.SIGINT)
        if code:
            raise StepError(f"the gateway {name} ended with exit code {code}")

    def _terminate(self, name: str, number: int = signal.SIGTERM) -> int:
        process = self._processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return process.returncode

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MOSAIC_")}
        gateway = {"MOSAIC_GATEWAY": self._gateway} if self._gateway else {}
        colour = {"FORCE_COLOR": "1"} if self._colour else {}
        return {**inherited, **colour, "COLUMNS": str(_width()), "PYTHONUNBUFFERED": "1", **gateway}

    def _command(self, command: str) -> None:
        self._print(f"$ {command}", "36")

    def _print(self, text: str, style: str = "") -> None:
        sys.stdout.write(f"\x1b[{style}m{text}\x1b[0m\n" if style and self._colour else f"{text}\n" if text else "")
        sys.stdout.flush()


def _width() -> int:
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handling(numbers: Sequence[int], handler: Any) -> Iterator[None]:
    """Handle signals by `handler`. Does nothing outside the main thread, which alone may set handlers."""
    main = threading.current_thread() is threading.main_thread()
    earlier = [(number, signal.signal(number, handler)) for number in (numbers if main else ())]
    try:
        yield
    finally:
        for number, before in earlier:
            signal.signal(number, before)
