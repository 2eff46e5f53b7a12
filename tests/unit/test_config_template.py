"""The template of `gateway.toml`."""

import re
import tomllib
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.config import CircuitConfig, GatewayConfig, StoreConfig, TelemetryConfig
from federation.config_template import render_config, sections
from federation.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path) -> GatewayConfig:
    """The settings of a gateway that have their defaults."""
    return GatewayConfig(directory=tmp_path, name="work.example")


def loaded(config: GatewayConfig, text: str) -> GatewayConfig:
    """Return what a text loads as in the directory of `config`."""
    (config.directory / "gateway.toml").write_text(text, encoding="utf-8")
    return GatewayConfig.load(config.directory)


def declared() -> set[tuple[str, str]]:
    """Return section and name of every setting that the dataclasses declare."""
    names = set()
    for field in fields(GatewayConfig):
        kind: Any = field.default_factory
        if is_dataclass(kind):
            names |= {(field.name, inner.name) for inner in fields(kind)}
        elif field.name != "directory":
            names.add(("", field.name))
    return names


def test_every_setting_of_every_section_stands_in_the_file(config: GatewayConfig) -> None:
    """Each setting has a line in its section, and its meaning in the comment above the line."""
    found, section, comment = set(), "", ""
    meanings = {(table.name, setting.name): setting.meaning for table in sections() for setting in table.settings}
    for line in render_config(config).splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section, comment = header[1], ""
        elif setting := re.fullmatch(r"(?:# )?(\w+) (?:= .+|\(\w+\) is unset by default\.)", line):
            found.add((section, setting[1]))
            assert comment.strip() == meanings[section, setting[1]]
            comment = ""
        else:
            comment = f"{comment} {line.removeprefix('#').strip()}" if line else ""

    assert found == declared()


def test_the_commented_settings_are_the_defaults(config: GatewayConfig) -> None:
    """The file loads as the default settings, and does so too once every setting in a comment is uncommented."""
    text = render_config(config)
    uncommented = re.sub(r"(?m)^# (\w+ = )", r"\1", text)

    assert loaded(config, text) == loaded(config, uncommented) == config
    unset = [setting for section in sections() for setting in section.settings if setting.default is None]
    given = sum(len(v) if isinstance(v, dict) else 1 for v in tomllib.loads(uncommented).values())
    assert given == len(declared()) - len(unset)


def test_settings_that_differ_from_their_defaults_are_set(config: GatewayConfig) -> None:
    """Values of every type load again as they were, also text that TOML has to escape."""
    asked = replace(
        config,
        admin_socket='run/"\\\n\x7f.sock',
        store=StoreConfig(url="postgresql+asyncpg://ada@db/work"),
        circuit=CircuitConfig(failure_threshold=3, slow_call_s=0.25),
        telemetry=TelemetryConfig(enabled=False),
    )

    assert loaded(config, render_config(asked)) == asked


def test_only_the_name_must_be_given() -> None:
    """Every other setting has a default, so that a file of one line is a complete `gateway.toml`."""
    required = [setting.name for section in sections() for setting in section.settings if setting.default is MISSING]
    assert required == ["name"]


@given(st.text())
def test_any_text_reads_back_as_it_was_given(text: str) -> None:
    """A string setting of any Unicode text, also beyond the basic plane, is TOML that reads back as the same text."""
    config = GatewayConfig(directory=Path("/x"), name="work.example", admin_socket=f"run/{text}")

    assert tomllib.loads(render_config(config))["admin_socket"] == f"run/{text}"


def test_a_text_that_is_not_unicode_is_refused_by_name() -> None:
    """A path with bytes that are not UTF-8 cannot stand in TOML; the error names the setting."""
    config = GatewayConfig(directory=Path("/x"), name="work.example", admin_socket="run/a\udcff.sock")

    with pytest.raises(ConfigError, match="admin_socket: contains bytes that are not UTF-8"):
        render_config(config)
