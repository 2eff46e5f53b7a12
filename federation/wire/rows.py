"""Decoding of a row's data."""

from typing import Any

import orjson

from federation.errors import InputError
from federation.v1 import federation_pb2 as pb


def fields(row: pb.Row) -> dict[str, Any]:
    """Return a row's data as a new dict.

    Decodes at every call, since generated messages cannot store the result. Raises `InputError` if the data is not one
    JSON object.
    """
    try:
        data = orjson.loads(row.data)
    except orjson.JSONDecodeError as e:
        raise InputError("data", f"row {row.id!r} does not hold JSON: {e}") from None
    if not isinstance(data, dict):
        raise InputError("data", f"row {row.id!r} does not hold a JSON object")
    return data
