"""The settings table of the README, generated from the settings: `python -m tests.support.settings_table`."""

import dataclasses
from pathlib import Path

from federation.config_template import sections, toml_value

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- settings:begin -->\n", "<!-- settings:end -->"


def table() -> str:
    """Return the table: every setting, its default, and what it means."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    words = {dataclasses.MISSING: "must be given", None: "unset", "": "empty"}
    for section in sections():
        prefix = f"{section.name}." if section.name else ""
        for setting in section.settings:
            default = words.get(setting.default) or f"`{toml_value(setting.default)}`"
            lines.append(f"| `{prefix}{setting.name}` | {default} | {setting.meaning} |")
    return "\n".join(lines) + "\n"


def documented_table() -> str:
    """Return the table in the README."""
    return README.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(text.split(BEGIN)[0] + BEGIN + table() + END + text.split(END)[1], encoding="utf-8")
