"""A home gateway that reads a work gateway for ada, where tests stop, suspend and restart the work gateway."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.gateway_pair import SCOPE
from tests.support.gateway_processes import GatewayProcesses


@dataclass
class ProcessPair(GatewayProcesses):
    """The gateway processes `home` and `work`; `work` has fixed ports, so that a restart keeps its addresses."""

    def enroll(self, user: str, **scope: object) -> None:
        """Enroll home at work for `user`, with the subject of the same name."""
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

    def stop_work(self) -> None:
        """Stop the work gateway."""
        assert self.stop("work") == 0

    def restart_work(self) -> None:
        """Start the work gateway, reset its circuit, and make one successful call."""
        self.start("work")
        self.run("federation peer reset work.example -g home --user ada")
        self.run("federation query search nothing -g home --user ada --source federated:work.example")


@pytest.fixture(scope="session")
def pair() -> Iterator[ProcessPair]:
    """Two gateways, started once per worker, with ada enrolled. A test that stops `work` starts it again."""
    with ProcessPair.temporary() as pair:
        for name, ports in (("home", {}), ("work", free_ports())):
            pair.init(name, **ports)
        pair.start_all("home", "work")
        pair.enroll("ada")
        yield pair


def free_ports() -> dict[str, str]:
    """Fixed free ports of a gateway that is restarted."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return {"listen": f"127.0.0.1:{one.getsockname()[1]}", "enroll": f"127.0.0.1:{other.getsockname()[1]}"}
