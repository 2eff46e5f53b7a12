"""The library names acts; only the command line names commands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import federation
from mosaic_cli.main import command_tree

ROOT: Final = Path(federation.__file__).parent
LIBRARY: Final = sorted(path for path in ROOT.rglob("*.py") if "v1" not in path.relative_to(ROOT).parts)


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below a command of the command line, with the words by which it is called."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, *path, name)


TREE: Final = dict(commands(command_tree()))
FLAGS: Final = sorted(
    {flag for command in TREE.values() for parameter in command.params for flag in parameter.opts if flag[:2] == "--"}
)
SPELLED: Final = [
    re.compile(rf"\bmosaic ({'|'.join(sorted({path[0] for path in TREE if path}))})\b"),
    re.compile(rf"`(mosaic )?({'|'.join(sorted({' '.join(path[-2:]) for path in TREE if len(path) > 1}))})\b"),
    re.compile(rf"(?<![\w-])({'|'.join(FLAGS)})(?![\w-])"),
]
"""A command line, a command without its first words in backticks, and an option of a command."""


def spelled(source: str) -> list[str]:
    """Return the texts of a module, docstrings among them, that spell a command or an option of one."""
    values = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    texts = [" ".join(value.split()) for value in values if isinstance(value, str)]
    return [text for text in texts if any(form.search(text) for form in SPELLED)]


def test_the_library_spells_no_command() -> None:
    """A text of the library is a sentence. The act that it names is a `Remedy`; the CLI adds the command."""
    found = {str(path.relative_to(ROOT)): spelled(path.read_text()) for path in LIBRARY}

    assert len(found) > 100
    assert {path: texts for path, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    "text",
    [
        "'`mosaic federation grant list` shows them'",
        "f'start it: mosaic gateway serve {directory}'",
        "def f():\n    '''Do what `mosaic user\n    remove` does.'''",
        "'`query capabilities` shows what the grant opens'",
        "'say which with --user'",
        "f'{name} --timeout {seconds}'",
    ],
)
def test_the_search_finds_a_command(text: str) -> None:
    """Texts, parts of texts, docstrings, and commands that a line break splits."""
    assert spelled(text)


@pytest.mark.parametrize(
    "text", ["'mosaic-federation[postgres]'", "'`createdb --template template0`'", "'mosaic renewal 1'", "'the `user`'"]
)
def test_the_search_finds_nothing_else(text: str) -> None:
    """Names that begin like a command and the commands of other programs are allowed."""
    assert spelled(text) == []
