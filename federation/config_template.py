"""Documentation of the settings: one entry per setting, and the template of `gateway.toml`.

Both are generated from the dataclasses of `federation.config`, which declare each setting once, with type, default and
meaning (the docstring below the field).
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Final, get_args, get_type_hints

from federation import config as config_module
from federation.config import GatewayConfig
from federation.errors import ConfigError

_HEADER: Final = """\
# Settings of this gateway. A setting that is commented out shows its default. Restart the gateway to apply changes.
"""
_ALWAYS_SET: Final = frozenset({"listen", "enroll"})
"""Settings that the template never comments out, because operators edit them most often."""
_WIDTH: Final = 118
_NOT_SETTINGS: Final = frozenset({"directory"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as its dataclass field declares it."""

    name: str
    """The key inside its section."""
    default: object
    """The default; `None` if the setting is unset by default, `MISSING` if it is required."""
    meaning: str
    kind: str
    """The name of the value's type."""


@dataclass(frozen=True, slots=True)
class Section:
    """One TOML table of settings. The section of the top-level keys has an empty name."""

    name: str
    meaning: str
    settings: tuple[Setting, ...]


@cache
def sections() -> tuple[Section, ...]:
    """Return all sections in the order of `gateway.toml`, the top-level settings first."""
    hints, meanings = get_type_hints(GatewayConfig), _meanings()
    tables = [(kind, name) for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)]
    return tuple(_section(kind, name, meanings[kind.__name__]) for kind, name in [(GatewayConfig, ""), *tables])


def render_config(config: GatewayConfig) -> str:
    """Return the text of a `gateway.toml` that loads as `config`; settings at their default are commented out."""
    lines = [_HEADER]
    for section in sections():
        values = getattr(config, section.name) if section.name else config
        if section.name:
            lines += [*_comment(section.meaning), f"[{section.name}]"]
        for setting in section.settings:
            lines += [*_comment(setting.meaning), _line(setting, getattr(values, setting.name))]
        lines.append("")
    return "\n".join(lines)


def toml_value(value: object) -> str:
    """Return a value as TOML. JSON's form of a string, a number or a truth value is TOML but for the character DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _section(kind: type[Any], name: str, meanings: dict[str, str]) -> Section:
    hints = get_type_hints(kind)
    settings = tuple(
        Setting(field.name, field.default, meanings[field.name], _kind(hints[field.name]))
        for field in fields(kind)
        if field.default_factory is MISSING and field.name not in _NOT_SETTINGS
    )
    meaning = (kind.__doc__ or "").removeprefix(f"`[{name}]`: ")
    return Section(name, f"{meaning[:1].upper()}{meaning[1:]}", settings)


def _meanings() -> dict[str, dict[str, str]]:
    """Return the docstring below each field of each class of `config`, from the source: Python does not store them."""
    classes = [node for node in ast.parse(inspect.getsource(config_module)).body if isinstance(node, ast.ClassDef)]
    return {node.name: dict(_documented(node.body)) for node in classes}


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            yield field.target.id, " ".join(ast.literal_eval(text.value).split())


def _kind(hint: Any) -> str:
    return " or ".join(kind.__name__ for kind in get_args(hint) or (hint,) if kind is not type(None))


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _line(setting: Setting, value: object) -> str:
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(setting.name, "contains bytes that are not UTF-8")
    if value != setting.default or setting.name in _ALWAYS_SET:
        return f"{setting.name} = {toml_value(value)}"
    if value is None:
        return f"# {setting.name} ({setting.kind}) is unset by default."
    return f"# {setting.name} = {toml_value(value)}"
