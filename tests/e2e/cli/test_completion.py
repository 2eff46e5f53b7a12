"""Shell completion by the shells' protocol, with a running gateway and without one."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.cli_runner import Cli
from tests.support.gateway_processes import MOSAIC, ROOT, GatewayProcesses, environment, mosaic

pytestmark = pytest.mark.e2e


@pytest.fixture
def grant(cli: Cli) -> str:
    """The grant's id of ada's enrollment at work, made once in this file."""
    return cli.enrolled()


def completed(served: GatewayProcesses, *words: str, **more: str) -> list[str]:
    """The completions of the last word for bash, split as bash splits words; nothing else is printed."""
    ran = subprocess.run(
        MOSAIC,
        cwd=served.directory,
        env=environment(
            COMP_WORDS="\n".join(("mosaic", *words)),
            COMP_CWORD=str(len(words)),
            _MOSAIC_COMPLETE="complete_bash",
            **more,
        ),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ran.stderr == ""
    return ran.stdout.split("\n")[:-1]


def offered(served: GatewayProcesses, *words: str, **more: str) -> list[str]:
    """The completions for bash, with retries, because a loaded machine may exceed the time limit."""
    return next(filter(None, (completed(served, *words, **more) for _ in range(5))), [])


def test_names_come_from_the_running_gateway(served: GatewayProcesses, grant: str) -> None:
    """Grants, peers, users, resources and sources are completed by their prefix, each where it is valid."""
    federation = ("federation", "-g")

    assert offered(served, *federation, "work", "grant", "show", grant[:8]) == [grant]
    assert completed(served, *federation, "work", "grant", "revoke", "x") == []
    assert offered(served, *federation, "work", "grant", "create", "--subject", "a") == ["ada"]
    assert offered(served, *federation, "work", "grant", "create", "--peer", "h") == ["home.example"]
    assert offered(served, *federation, "work", "grant", "list", "--status", "re") == ["revoked"]
    assert offered(served, *federation, "home", "peer", "show", "") == ["work.example"]
    assert offered(served, *federation, "home", "peer", "list", "--state", "") == [
        "active", "offline", "degraded", "revoked", "expired"
    ]  # fmt: skip
    assert offered(served, *federation, "work", "audit", "--verb", "grant.r") == ["grant.revoke"]
    assert offered(served, *federation, "work", "audit", "--outcome", "d") == ["denied"]
    assert offered(served, *federation, "home", "query", "list", "t") == ["tasks"]
    assert offered(served, "user", "remove", "-g", "home", "b") == ["bob"]
    assert offered(served, "federation", "grant", "re") == ["revoke"]


def test_completion_handles_bash_word_breaks(served: GatewayProcesses, grant: str) -> None:
    """`federated:w` reaches the command as three words; the completion replaces the last of them."""
    ask = ("federation", "query", "list", "tasks", "-g", "home", "--user", "ada", "--source")

    assert offered(served, *ask, "") == ["all", "federated:work.example", "local"]
    assert offered(served, *ask, "fed") == ["federated:work.example"]
    assert offered(served, *ask, "federated", ":") == ["work.example"]
    assert offered(served, *ask, "federated", ":", "wo") == ["work.example"]
    assert offered(served, *ask, "=", "federated", ":", "wo") == ["work.example"]
    assert offered(served, *ask, "=", "lo") == ["local"]
    assert offered(served, *ask, "=") == ["all", "federated:work.example", "local"]
    assert offered(served, *ask[:-2], "bob", "--source", "") == ["all", "local"]


def test_the_gateway_may_come_from_the_environment(served: GatewayProcesses, grant: str) -> None:
    """MOSAIC_GATEWAY selects the gateway; without a gateway there are no completions."""
    assert offered(served, "federation", "peer", "show", "w", MOSAIC_GATEWAY="home") == ["work.example"]
    assert completed(served, "federation", "peer", "show", "w") == []
    assert offered(served, "federation", "peer", "show", "w", MOSAIC_GATEWAY="~/home", HOME=str(served.directory)) == [
        "work.example"
    ]


def test_zsh_and_fish_show_help_beside_names(served: GatewayProcesses, grant: str) -> None:
    """Zsh and fish show peer and subject beside a grant's id."""
    for shell, sign in (("zsh", ":"), ("fish", "\t")):
        ran = subprocess.run(
            MOSAIC,
            cwd=served.directory,
            env=environment(
                _TYPER_COMPLETE_ARGS="mosaic federation -g work grant show ",
                _MOSAIC_COMPLETE=f"complete_{shell}",
                _TYPER_COMPLETE_FISH_ACTION="get-args",
            ),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert ran.stderr == ""
        assert grant in ran.stdout
        assert "home.example as ada" in ran.stdout.split(grant)[1]
        assert sign in ran.stdout.split(grant)[1]


@pytest.mark.parametrize("gateway", ["stopped", "nowhere", "rows.jsonl", "\x01", "''"])
def test_without_a_running_gateway_there_are_no_completions(served: GatewayProcesses, gateway: str) -> None:
    """A stopped or missing gateway gives no names and no error; commands are still completed."""
    if gateway == "stopped" and not (served.directory / "stopped").exists():
        served.init("stopped")

    assert completed(served, "federation", "grant", "show", "-g", gateway, "") == []
    assert offered(served, "federation", "-g", gateway, "grant", "sh") == ["show"]


def test_completion_does_not_wait_for_a_suspended_gateway(served: GatewayProcesses, grant: str) -> None:
    """With a suspended gateway the completion ends at its limit of a third of a second, without names."""
    with served.suspended("home"):
        began = time.monotonic()
        assert completed(served, "federation", "peer", "show", "-g", "home", "") == []
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "more",
    [{"COMP_WORDS": "mosaic"}, {"COMP_CWORD": "1"}, {"COMP_WORDS": "mosaic", "COMP_CWORD": "x"},
     {"COMP_WORDS": "mosaic 'x", "COMP_CWORD": "9"}, {"COMP_WORDS": "\n\n", "COMP_CWORD": "-7"}],
)  # fmt: skip
def test_invalid_completion_input_gives_no_traceback(served: GatewayProcesses, more: dict[str, str]) -> None:
    """No input of a shell gives a traceback."""
    ran = mosaic(cwd=served.directory, _MOSAIC_COMPLETE="complete_bash", **more)

    assert ran.stderr == ""
    assert "Traceback" not in ran.stdout


@pytest.mark.parametrize(("shell", "file"), [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", ".config/fish")])
def test_completion_can_be_shown_and_installed(served: GatewayProcesses, tmp_path: Path, shell: str, file: str) -> None:
    """`--show-completion` prints the shell's script, `--install-completion` installs it for the shell."""
    variables = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}

    shown = mosaic("--show-completion", shell, cwd=served.directory, **variables)
    installed = mosaic("--install-completion", shell, cwd=served.directory, **variables)

    assert (shown.returncode, installed.returncode) == (0, 0), shown.stderr + installed.stderr
    assert f"_MOSAIC_COMPLETE=complete_{shell}" in shown.stdout
    assert (tmp_path / file).exists()
    assert any("_MOSAIC_COMPLETE" in path.read_text() for path in tmp_path.rglob("*mosaic*") if path.is_file())


def test_an_interactive_bash_completes_a_source(served: GatewayProcesses, grant: str, tmp_path: Path) -> None:
    """TAB after `federated:` inserts the peer's name after the colon."""
    command = tmp_path / "mosaic"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT}:{ROOT}/cli exec {sys.executable} -m mosaic_cli "$@"\n')
    command.chmod(0o755)
    script = tmp_path / "rc"
    shown = mosaic("--show-completion", "bash", cwd=served.directory, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    script.write_text(f"{shown.stdout}\nbind 'set bell-style none'\nPS1='ready> '\n")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(script), "-i"],
        cwd=served.directory,
        env=environment(
            PATH=f"{tmp_path}:{os.environ['PATH']}", MOSAIC_GATEWAY="home", TERM="dumb", HOME=str(tmp_path)
        ),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        try:
            seen_until(ours, "ready> ")
            os.write(ours, b"mosaic federation query list tasks --user ada --source federated:\t")
            assert "federated:work.example" in seen_until(ours, "work.example")
        finally:
            process.kill()
            os.close(theirs)
            os.close(ours)


def seen_until(terminal: int, words: str, within_s: float = 20) -> str:
    """Read a terminal until it shows the texts."""
    seen, until = "", time.monotonic() + within_s
    while words not in seen:
        left = until - time.monotonic()
        assert left > 0, seen
        if select.select([terminal], [], [], left)[0]:
            seen += os.read(terminal, 4_096).decode(errors="replace")
    return seen
