"""The published JSON Schemas: every command's `--json` output has one and matches it, and no schema is too loose."""

import copy
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mosaic_cli.output import outputs as output_models
from tests.support.cli_runner import COMMANDS
from tests.support.json_outputs import JsonOutputs
from tests.support.schemas import DIRECTORY, SCHEMAS, validator

# The walk through all outputs is the set-up of the first test.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SHARED = "definitions"
OPTIONS = {"federation status": ("watch", "explain"), "federation audit": ("follow",)}
"""Options by which a command prints something else."""
FREE = frozenset({"data", "scope"})
"""Content that people wrote, which no schema describes."""
SAME = {"status-watch": "statu", "audit-follow": "event"}
"""Outputs of the same shape as another one, by its name without an s."""
NEVER_FILLED = {
    "statu.warnings": "it takes a peer that renewed only after its certificate had expired",
    "event.trace_id": "it takes a collector of traces",
}


def objects(value: Any, path: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Every object of an output that a schema describes, with its path of names."""
    if isinstance(value, dict):
        yield value, path
        for key, below in value.items():
            if key not in FREE:
                yield from objects(below, (*path, key))
    elif isinstance(value, list):
        for below in value:
            yield from objects(below, path)


def test_every_command_with_json_has_a_schema() -> None:
    """One file per command, and one per option that prints another object; no other file."""
    wanted = set()
    with_json = [path for path, command in COMMANDS.items() if any("--json" in one.opts for one in command.params)]
    for path in with_json:
        name = "-".join(path).removeprefix("federation-")
        wanted |= {name, *(f"{name}-{option}" for option in OPTIONS.get(" ".join(path), ()))}

    assert set(SCHEMAS) - {SHARED} == wanted


def test_the_files_are_generated_from_the_models(tmp_path: Path) -> None:
    """`make schemas` would change no file."""
    output_models.write(tmp_path)

    for path in tmp_path.iterdir():
        assert path.read_text(encoding="utf-8") == (DIRECTORY / path.name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_and_named(name: str) -> None:
    """Each is JSON Schema 2020-12, has its file name as id, and closes every object but a user's data."""
    schema = SCHEMAS[name]

    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"{name}.json"
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    closed = re.findall(r'"(?:additional|unevaluated)Properties": (\w+)', json.dumps(schema))
    assert set(closed) <= {"false"}


def test_every_output_matches_its_schema(outputs: JsonOutputs) -> None:
    """The outputs of two real gateways in many states match the schemas."""
    faults = [
        f"{name}: {fault.json_path}: {fault.message}"
        for name, shapes in outputs.recorded.items()
        for shape in shapes
        for fault in validator(name).iter_errors(shape)
    ]

    assert faults == []
    assert set(outputs.recorded) == set(SCHEMAS) - {SHARED}


def test_a_missing_or_new_field_is_refused(outputs: JsonOutputs) -> None:
    """No object of any output may lose or gain a field, so the schemas are complete."""
    let_through = set()
    for name, shapes in outputs.recorded.items():
        check = validator(name).is_valid
        for shape in (copy.deepcopy(shape) for shape in (shapes[0], shapes[-1])):
            for inner, path in objects(shape, ()):
                inner["surprise"] = 1
                if check(shape):
                    let_through.add((name, *path, "surprise"))
                del inner["surprise"]
                for key in list(inner):
                    kept = dict(inner)
                    del inner[key]
                    if check(shape):
                        let_through.add((name, *path, key))
                    inner.update(kept)

    assert let_through == set()


def test_the_outputs_fill_optional_fields(outputs: JsonOutputs) -> None:
    """Each field that is null or empty in one output has a value in another, so its schema is tested."""
    seen: dict[str, set[bool]] = defaultdict(set)
    for name, shapes in outputs.recorded.items():
        for inner, path in objects(shapes, ()):
            for key, value in inner.items():
                kind = path[-1] if path else SAME.get(name, name)
                seen[f"{kind.removesuffix('s')}.{key}"].add(value not in (None, []))

    assert sorted(key for key, filled in seen.items() if True not in filled) == sorted(NEVER_FILLED)


def test_the_index_names_every_schema() -> None:
    """The table in the directory's README has one row per file."""
    index = (DIRECTORY / "README.md").read_text(encoding="utf-8")

    assert set(re.findall(r"\(([a-z-]+)\.json\)", index)) == set(SCHEMAS)
