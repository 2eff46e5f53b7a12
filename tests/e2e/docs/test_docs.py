"""The commands of the operators' documents are run, and their output is compared with the documented output."""

import re
from pathlib import Path

import pytest

from tests.support.documented_commands import DocumentRunner, steps
from tests.support.gateway_processes import ROOT

pytestmark = pytest.mark.documents

DOCS = ROOT / "docs"
DOCUMENTS = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
MOST_NOT_RUN = 4
"""Blocks of all documents together that need another machine, or a day."""


def text_of(name: str) -> str:
    """A document of the directory."""
    return (DOCS / name).read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as web pages make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_onboarding_leads_to_the_first_federated_read(document_runner: DocumentRunner) -> None:
    """Every command of the onboarding document, run in order, prints the documented output."""
    text = text_of("ONBOARDING.md")
    (program,) = re.findall(r"^ *```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    (document_runner.directory / "read.py").write_text(
        re.sub(r"^    ", "", program, flags=re.MULTILINE), encoding="utf-8"
    )

    document_runner.run_document(text)


@pytest.mark.timeout(300)
def test_the_runbook_is_typed_from_beginning_to_end(document_runner: DocumentRunner) -> None:
    """Every command of the runbook, run in order on two gateways, prints the documented output."""
    document_runner.max_lease_s = "1.0"  # a restarted gateway awaits what its predecessor leased
    program_free = [step for step in steps(text_of("ONBOARDING.md")) if not step.command.startswith("python")]
    for step in (*program_free, *steps(text_of("RUNBOOK.md"))):
        document_runner.run_step(step)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link of a document names a file that exists, and a heading that is in it."""
    dead = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if "://" in link or (target.exists() and (not anchor or anchor in anchors(target))):
            continue
        dead.append(link)

    assert dead == []


def test_few_blocks_are_not_run() -> None:
    """A command that no test types is marked with its reason, and such commands are rare."""
    operators = [text_of(name) for name in ("ONBOARDING.md", "RUNBOOK.md", "TROUBLESHOOTING.md")]
    left_out = sum(len(re.findall(r"<!-- not run: \w", text)) for text in operators)
    commands = sum(text.count("\n$ ") + len(re.findall(r"\n +\$ ", text)) for text in operators)

    assert left_out <= MOST_NOT_RUN
    assert sum(len(steps(text)) for text in operators) >= commands - 2 * MOST_NOT_RUN
