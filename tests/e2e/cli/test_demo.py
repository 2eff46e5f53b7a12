"""`mosaic demo`: its steps, its errors, and its cleanup."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from mosaic_cli.demo.environment import DemoEnvironment, StepError
from tests.support.gateway_processes import MOSAIC, environment

pytestmark = pytest.mark.e2e


def demo(temporary: Path, *options: str) -> "subprocess.Popen[str]":
    """Start the demo with a temporary directory of the test."""
    return subprocess.Popen(
        [*MOSAIC, "demo", *options],
        env=environment(TMPDIR=str(temporary), PYTHONUNBUFFERED="1", COLUMNS="80"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def running_in(directory: Path) -> list[str]:
    """Return the processes whose working directory lies in `directory`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(str(directory)):
                found.append((process / "cmdline").read_text())
        except OSError:  # the process has ended, or belongs to another user
            continue
    return found


@pytest.fixture
def temporary() -> Path:
    """A short temporary directory, for the sockets within."""
    return Path(tempfile.mkdtemp(prefix="m"))


def test_the_demo_shows_every_step_and_cleans_up(temporary: Path) -> None:
    """Each step is shown as a command with its output; afterwards no process and no file is left."""
    process = demo(temporary)

    out, words = process.communicate(timeout=115)

    assert (process.returncode, words) == (0, "")
    for shown in (
        "$ mosaic gateway init work",
        "$ mosaic federation grant create",
        "$ mosaic federation peer add --user ada - < token",
        "federated:work.example  no",
        "federated:work.example  yes",
        "error: SCOPE_VIOLATION",
        "$ kill -INT $(cat work/gateway.lock)",
        "from 2 of 2 sources in ",
        "from 1 of 2 sources in ",
        "federated:work.example: skipped: PEER_UNREACHABLE; queried again in ",
        "error: PEER_UNREACHABLE",
        "error: CIRCUIT_OPEN",
        "$ mosaic federation peer reset work.example",
        "federation restored for work.example",
        "○ offline",
        "[exit code 3]",
    ):
        assert shown in out
    assert out.count("federation offline for work.example") == 1
    assert "\x1b" not in out
    assert list(temporary.iterdir()) == []
    assert running_in(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(temporary: Path, number: int) -> None:
    """Ctrl-C or a closed terminal ends both gateways and removes the directory; the exit code is 130."""
    process = demo(temporary)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("  admin") and "/home/" in line:
            break

    process.send_signal(number)
    process.communicate(timeout=60)

    assert process.returncode == 130
    assert list(temporary.iterdir()) == []
    assert running_in(temporary) == []


@pytest.fixture
def demo_environment(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> DemoEnvironment:
    """A demo environment in a temporary directory of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return DemoEnvironment()


@pytest.mark.parametrize(
    ("code", "expect", "problem"),
    [(1, ["mosaic"], "ended with exit code 0, not 1"), (0, ["no such words"], "did not print no such words")],
)
def test_a_step_with_an_unexpected_result_fails(
    demo_environment: DemoEnvironment, capsys: pytest.CaptureFixture[str], code: int, expect: list[str], problem: str
) -> None:
    """A wrong exit code or missing output ends the demo."""
    with demo_environment, pytest.raises(StepError, match=problem):
        demo_environment.run("mosaic --version", code=code, expect=expect)


def test_a_failed_step_ends_the_demo_with_1(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error and the gateways' logs are on stderr, and the directory is removed."""
    from mosaic_cli.main import main  # noqa: PLC0415

    def breaks(env: DemoEnvironment) -> None:
        env.write_file("work.log", b"something happened")
        raise StepError("the sky fell")

    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr("mosaic_cli.demo.script.run_script", breaks)

    assert main(["demo"]) == 1
    assert "error: the demo failed: the sky fell\n--- work.log\nsomething happened\n" in capsys.readouterr().err
    assert list(temporary.iterdir()) == []


def test_the_directory_can_be_kept(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --keep the directory is kept and its path is printed."""
    from mosaic_cli.main import main  # noqa: PLC0415

    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr("mosaic_cli.demo.script.run_script", lambda env: env.write_file("file", b""))

    assert main(["demo", "--keep"]) == 0
    (kept,) = temporary.iterdir()
    assert f"kept: {kept}" in capsys.readouterr().err
    assert (kept / "file").exists()


def test_redirections_work_as_in_a_shell(demo_environment: DemoEnvironment) -> None:
    """`> FILE` writes standard output to the file, and none of it is shown."""
    with demo_environment:
        ran = demo_environment.run("mosaic --version > version")
        assert (demo_environment.directory / "version").read_text() == ran.stdout
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not os.path.lexists(demo_environment.directory)
