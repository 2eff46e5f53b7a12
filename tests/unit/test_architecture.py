"""`docs/ARCHITECTURE.md` names files, packages and identifiers that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
TREE = TEXT.split("```")[1]
PATHS = sorted(set(re.findall(r"`([a-z_]\w*(?:/\w+)*(?:/|\.(?:py|proto|md)))`", TEXT)))
IDENTIFIERS = sorted(set(re.findall(r"`([\w/]+\.py)` \(`(\w+(?:\.\w+)?)`", TEXT)))
MOST_LINES = 200


def located(path: str) -> Path:
    """Return the file of a path as the document writes it: from the top level, or from `federation/`."""
    return ROOT / path if path.startswith(("cli/", "tests/", "docs/", "protos/")) else ROOT / "federation" / path


def defined(path: Path) -> set[str]:
    """Return the names that a module defines at its top level, and `Class.name` for what its classes define."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef():
                found |= {node.name, *(f"{node.name}.{one.name}" for one in node.body if hasattr(one, "name"))}
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.add(node.name)
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("path", PATHS)
def test_a_named_path_exists(path: str) -> None:
    """A file or folder that the document names is in the tree."""
    assert located(path).exists()


@pytest.mark.parametrize(("path", "identifier"), IDENTIFIERS)
def test_a_named_identifier_is_defined_in_its_file(path: str, identifier: str) -> None:
    """An identifier in brackets behind a file is defined in that file."""
    assert identifier in defined(located(path))


def test_the_tree_names_every_package() -> None:
    """The layers show every package and module of `federation/` and every package of the command line."""
    packages = [path for path in (ROOT / "federation").iterdir() if path.name not in {"__init__.py", "__pycache__"}]
    names = {f"{path.name}/" if path.is_dir() else path.name for path in packages if path.suffix in {"", ".py"}}
    commands = {f"{path.parent.name}/" for path in (ROOT / "cli" / "mosaic_cli").glob("*/__init__.py")}

    assert {name for name in (names | commands) - {"v1/"} if name not in TREE} == set()


def test_the_document_stays_one_page() -> None:
    """The document is short enough to be read as a whole."""
    assert TEXT.count("\n") <= MOST_LINES
