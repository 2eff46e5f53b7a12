"""A home gateway that reads a work gateway for ada, where the work gateway goes away and comes back."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.gateway_pair import SCOPE
from tests.support.gateway_processes import Served


@dataclass
class Pair(Served):
    """`home` and `work`, and what the work gateway listens on, so that it comes back where it was."""

    def enroll(self, user: str, **scope: object) -> None:
        """Let `user` at home read work as the user of the same name there."""
        document = json.dumps({**SCOPE, **scope})
        made = self.run(
            "federation grant create -g work --peer home.example --json --subject", user, "--scope", document
        )
        token = self.run("federation grant token -g work", json.loads(made)["grant"]["id"]).strip()
        name = "work.example" if user == "ada" else f"{user}s-work.example"
        self.run("federation peer add -g home --user", user, "--name", name, token)

    def run(self, line: str, *more: str) -> str:
        """Run a command that must succeed; return what it printed."""
        return self.command(*line.split(), *more)

    def leave(self) -> None:
        """Stop the work gateway."""
        assert self.stop("work") == 0

    def come_back(self) -> None:
        """Start the work gateway where it was; after a reset the very next call finds it."""
        self.start("work")
        self.run("federation peer reset work.example -g home --user ada")
        self.run("federation query search nothing -g home --user ada --source federated:work.example")


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two gateways, started once in each worker; ada reads work from home. Who stops `work` starts it again."""
    with Pair.temporary() as pair:
        for name, ports in (("home", {}), ("work", free_ports())):
            pair.found(name, **ports)
        pair.start_all("home", "work")
        pair.enroll("ada")
        yield pair


def free_ports() -> dict[str, str]:
    """What a gateway listens on that comes back where it was."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return {"listen": f"127.0.0.1:{one.getsockname()[1]}", "enroll": f"127.0.0.1:{other.getsockname()[1]}"}
