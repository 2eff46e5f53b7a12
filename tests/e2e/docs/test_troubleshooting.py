"""Every message that the document quotes is provoked, or at least stands in the source."""

import ast
import json
import re

import pytest

from federation.errors import Reason
from mosaic_cli.output.errors import CURES, advised
from tests.support.documented_commands import DocumentRunner, pattern, steps
from tests.support.gateway_processes import ROOT

pytestmark = pytest.mark.documents

DOCS = ROOT / "docs"
TEXT = (DOCS / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^### `(.+)`$", TEXT, re.MULTILINE)
READ = "mosaic federation query list tasks --user ada --source federated:work.example --gateway home --page-size"
SERVE = "mosaic gateway serve --gateway work"
CREATE = "mosaic federation grant create --subject ada --scope scope.json --gateway work --peer"
TOKEN = "mosaic federation grant token GRANT_ID --gateway work"
ADD = "mosaic federation peer add --user ada - --gateway"
SECRETS = """'{"resources": ["api_keys"]}'"""
LONG = "x" * 120
HARD_TO_HAVE = frozenset(
    {
        "this user may not open the admin socket …; connect as the gateway's user",
        "the gateway does not offer this operation; is it of another version than this client?",
        "the database of … is already served by another process; stop that process first",
        "the database closed the connection that held the serving lock; start the gateway again",
        (
            "cannot open the database …: a newer version of this software has migrated it (…); "
            "install that version, or restore the backup from before the upgrade"
        ),
        "this enrollment token expired at …; ask for a new one",
        "the certificate of the server is not issued by the authority in the token; check the address, …",
        "CERTIFICATE_INVALID: …; enroll again with a new token: …",
        "the serving gateway cannot record reads fast enough and refuses them for now; try again",
        "internal error; incident …",
        "renewing its certificate failed … in a row; it expires …",
        "which is too long ago to renew it; …",
    }
)
"""Messages that take another user, another version, a full disk, or days. Their words are looked up in the source."""

ENROLLING = (
    "mosaic federation status",
    "mosaic federation status --gateway nowhere",
    READ.replace("ada", "adda") + " 1",
    f"echo hello | {ADD} home",
    f"head -c 90 token | {ADD} home",
    f"{CREATE} other.example",
    f"{TOKEN} > token",
    f"{ADD} home --name x < token",
    f"{CREATE} home.example",
    f"{TOKEN} > stale",
    f"{TOKEN} > token",
    f"{ADD} home --name x < stale",
    f"{ADD} home < token",
    f"{ADD} home --name second < token",
    "mosaic gateway init other --name home.example --listen 127.0.0.1:0 --enroll 127.0.0.1:0",
    "mosaic gateway import cli/mosaic_cli/demo/data/home.jsonl --gateway other",
    "mosaic gateway serve --gateway other",
    f"{ADD} other < token",
    "kill $(cat other/gateway.lock)",
    TOKEN,
    f"mosaic federation grant confirm GRANT_ID {'0' * 64} --gateway work",
)
READING = (
    READ.replace("tasks", "credentials") + " 1",
    "mosaic federation query get tasks none --user ada --source federated:work.example --gateway home",
    f"{READ} 1 --page-token nonsense",
    'mosaic federation grant scope GRANT_ID --scope \'{"resources": ["tasks"], "rate_limit_per_minute": 1}\' -g work',
    *(READ.replace("work.example", "second") + f" {size}" for size in (1, 2, 3)),
    f"{CREATE} home.example",
    f"{TOKEN} --confirm > token",
    f"{ADD} home --name third < token",
    READ.replace("work.example", "third") + " 1",
    f"mosaic federation grant create --peer x.example --subject ada -g work --dry-run --scope {SECRETS}",
    "kill -STOP $(cat work/gateway.lock)",
    f"{READ} 4 --budget 0.3",
    "kill -CONT $(cat work/gateway.lock)",
)
AWAY = (
    f"{CREATE} home.example",
    f"{TOKEN} > token",
    "kill $(cat work/gateway.lock)",
    "mosaic federation status --gateway work",
    f"{ADD} home --name fourth < token",
    *(f"{READ} {size}" for size in (5, 6)),
    "mosaic federation status --gateway home",
    *(f"{READ} {size}" for size in (7, 8, 9, 10)),
    *(READ.replace("federated:work.example", "all") + f" {size} --session s" for size in (11, 12)),
    "mosaic federation status --gateway home",
)
STARTING = (
    "chmod 644 work/seal.key",
    SERVE,
    "chmod 600 work/seal.key; mv work/seal.key aside",
    SERVE,
    f"env MOSAIC_SEAL_KEY={'0' * 64} {SERVE}",
    "mv aside work/seal.key; mv work/gateway.db aside",
    SERVE,
    "mv aside work/gateway.db; chmod 755 work/run",
    SERVE,
    "chmod 700 work/run; cp work/gateway.toml good.toml",
    "sed -i 's/127.0.0.1:7443/127.0.0.1:8443/' work/gateway.toml",
    SERVE,
    "cp good.toml work/gateway.toml; sed -i 's/^listen = /listne = /' work/gateway.toml",
    SERVE,
    f"cp good.toml work/gateway.toml; sed -i '1i admin_socket = \"{LONG}\"' work/gateway.toml",
    SERVE,
    "cp good.toml work/gateway.toml",
    SERVE,
    SERVE,
    "mosaic federation peer reset work.example --gateway home",
    "mosaic federation query search budget --user ada --source federated:work.example --gateway home",
    READ.replace("federated:work.example", "all") + " 13 --session s",
)
REVOKING = (
    READ + " 14",
    "kill -STOP $(cat home/gateway.lock)",
    "timeout -s INT 5 mosaic federation grant revoke FIRST --reason over --gateway work",
    "kill -CONT $(cat home/gateway.lock)",
    "mosaic federation grant revoke FIRST --gateway work",
    "mosaic federation grant token FIRST --gateway work",
    READ + " 15",
    "mosaic federation status --gateway home",
    "kill $(cat home/gateway.lock)",
    "mosaic gateway serve --gateway home",
    "mosaic federation status --gateway home",
)


@pytest.fixture
def onboarded(document_runner: DocumentRunner) -> DocumentRunner:
    """Both gateways as the first document leaves them; `FIRST` is its grant."""
    for step in steps((DOCS / "ONBOARDING.md").read_text(encoding="utf-8")):
        if not step.command.startswith("python"):
            document_runner.run(step.command)
    document_runner.replacements["FIRST"] = document_runner.replacements["GRANT_ID"]
    return document_runner


def in_source(message: str) -> bool:
    """Tell whether one literal of the program, or a cure with its command, holds the pieces of a message in order."""
    reason, _, rest = message.partition(": ")
    pieces = [piece.strip(" ;:,.`'") for piece in (rest if reason in Reason.__members__ else message).split("…")]
    expression = re.compile(".*".join(re.escape(piece) for piece in pieces if piece), re.DOTALL)
    return any(expression.search(literal) for literal in LITERALS)


def _literals() -> set[str]:
    found = {advised(*cure) for cure in CURES.values()}
    for path in (*(ROOT / "federation").rglob("*.py"), *(ROOT / "cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


LITERALS = _literals()


@pytest.mark.timeout(400)
def test_the_quoted_messages_are_met(onboarded: DocumentRunner) -> None:
    """Two real gateways print every quoted message that a test can provoke within a minute."""
    for command in (*ENROLLING, *READING, *AWAY, *STARTING, *REVOKING):
        onboarded.run(command)

    met = {message for message in QUOTED if re.search(pattern(message), onboarded.printed)}
    assert sorted(set(QUOTED) - met - HARD_TO_HAVE) == []


def test_the_others_are_words_of_the_source() -> None:
    """A message that no test provokes stands literally in the program and in the document."""
    assert sorted(HARD_TO_HAVE - set(QUOTED)) == []
    assert [message for message in HARD_TO_HAVE if not in_source(message)] == []


def test_every_reason_of_a_refusal_is_explained() -> None:
    """Each reason of refusal is named in the document."""
    told = json.dumps(TEXT)

    assert [reason for reason in Reason if reason not in told and reason not in {"INVALID_REQUEST", "INTERNAL"}] == []
