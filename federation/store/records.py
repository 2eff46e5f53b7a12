"""Conversion between records (dataclasses) and rows, by name: a field is its column, an instant's without `_us`."""

from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import Row, Table

T = TypeVar("T")


def to_columns(record: Any, table: Table, /, **given: Any) -> dict[str, Any]:
    """Return the values of a table's columns: those of the record's fields, and `given`."""
    values = {field.name.removesuffix("_us"): getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if name in table.columns} | given


def from_row(kind: type[T], row: Row[Any], /, **given: Any) -> T:
    """Return the record of a row. `given` are the fields whose values are not those of a column."""
    names = [field.name for field in fields(kind) if field.name not in given]  # type: ignore[arg-type]
    return kind(**{name: row._mapping[name.removesuffix("_us")] for name in names}, **given)
