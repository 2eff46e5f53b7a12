"""The settings table of the README, made from the settings themselves: `python -m tests.support.settings_table`."""

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

from federation import config

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- settings:begin -->\n", "<!-- settings:end -->"


def sentences(kind: type[Any]) -> dict[str, str]:
    """Return the docstring of each field of a settings class."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def table() -> str:
    """Return the table: every setting, its default, and what it means."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, default, meaning in entries(config.GatewayConfig, ""):
        lines.append(f"| `{name}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def entries(kind: type[Any], prefix: str) -> list[tuple[str, str, str]]:
    """Return name, default and meaning of each setting of a class and of its tables."""
    texts, found = sentences(kind), []
    for field in dataclasses.fields(kind):
        if field.name == "directory":
            continue
        factory = field.default_factory
        if dataclasses.is_dataclass(factory) and isinstance(factory, type):
            found += entries(factory, f"{prefix}{field.name}.")
            continue
        missing = field.default is dataclasses.MISSING
        default = "must be given" if missing else {None: "unset", "": "empty"}.get(field.default, f"`{field.default}`")
        found.append((f"{prefix}{field.name}", default, texts[field.name]))
    return found


def written() -> str:
    """Return the table that stands in the README."""
    return README.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(text.split(BEGIN)[0] + BEGIN + table() + END + text.split(END)[1], encoding="utf-8")
