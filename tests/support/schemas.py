"""The published JSON Schemas of the `--json` outputs, with their references resolved."""

import json
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.support.gateway_processes import ROOT

DIRECTORY = ROOT / "docs" / "schemas"
SCHEMAS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DIRECTORY.glob("*.json"))}
REGISTRY: Registry[Any] = Registry().with_resources(
    [(f"{name}.json", Resource.from_contents(schema)) for name, schema in SCHEMAS.items()]
)


def validator(name: str) -> Draft202012Validator:
    """The validator of one published schema."""
    return Draft202012Validator(SCHEMAS[name], registry=REGISTRY)
