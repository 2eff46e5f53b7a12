"""JSON Schemas (2020-12) from the declarations of `mosaic_cli.output.models`."""

from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from mosaic_cli.output.models import Keywords, Model, Shape

Keys = dict[str, Any]
"""The keys of a JSON object and their types."""
TYPES: Final = {str: "string", int: "integer", float: "number", bool: "boolean"}


def keys_of(model: type[Model]) -> Keys:
    """Return the keys that a model declares."""
    return get_type_hints(model, include_extras=True)


class SchemaBuilder:
    """Builds JSON Schemas. `definitions` collects the schemas of nested models, referenced as `prefix` plus name."""

    def __init__(self, prefix: str) -> None:
        self.definitions: Shape = {}
        self._prefix = prefix

    def object(self, keys: Keys) -> Shape:
        """Return the schema of an object that requires exactly these keys."""
        return {
            "type": "object",
            "properties": {key: self.of(hint) for key, hint in keys.items()},
            "required": list(keys),
            "additionalProperties": False,
        }

    def of(self, hint: Any) -> Shape:
        """Return the schema of a type; a model becomes a reference to its definition."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self._annotated(self.of(arguments[0]), arguments[1:])
        if origin in {Union, UnionType}:
            return self._union(arguments)
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is Literal:
            return {"enum": list(arguments)}
        if hint is Any:
            return {}
        if issubclass(hint, Model):
            name = "".join(f"_{c.lower()}" if c.isupper() else c for c in hint.__name__).strip("_")
            if name not in self.definitions:
                schema = self.object(keys_of(hint))
                self.definitions[name] = {"description": hint.__doc__, **schema} if hint.__doc__ else schema
            return self._reference(name)
        return {"type": TYPES[hint]}

    def _annotated(self, schema: Shape, metadata: tuple[Any, ...]) -> Shape:
        for one in metadata:
            if isinstance(one, Keywords):
                schema = {**schema, **one.keywords}
                if one.name:
                    self.definitions[one.name] = schema
                    schema = self._reference(one.name)
            else:
                schema = {**schema, "description": one}
        return schema

    def _union(self, kinds: tuple[Any, ...]) -> Shape:
        schemas = [self.of(kind) for kind in kinds if kind is not NoneType]
        if NoneType not in kinds:
            return {"anyOf": schemas}
        if isinstance(schemas[0].get("type"), str):
            return {**schemas[0], "type": [schemas[0]["type"], "null"]}
        return {"anyOf": [*schemas, {"type": "null"}]}

    def _reference(self, name: str) -> Shape:
        return {"$ref": f"{self._prefix}{name}"}
