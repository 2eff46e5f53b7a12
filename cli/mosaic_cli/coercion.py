"""Conversion of parameter values without pydantic.

typer converts every value through pydantic, even a string to a string, and so do its `parser=` functions. Importing
pydantic takes a third of the CPU time of `mosaic federation status`. The converter here accepts the values that need
no conversion and passes all others to typer.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def avoid_pydantic(command: Any) -> None:
    """Make the parameters of a command, and of all commands of a group, accept plain values without pydantic.

    Leaves the parameters of a typer release without `get_runtime_param` unchanged.
    """
    get_params = command.get_params

    def get_plain_params(context: Any) -> list[Any]:
        parameters: list[Any] = get_params(context)  # includes `--help`, which typer creates on the first call
        for parameter in parameters:
            get_converter = getattr(parameter, "get_runtime_param", None)
            if get_converter is not None and not isinstance(get_converter, _PlainConverter):
                parameter.get_runtime_param = _PlainConverter(parameter, get_converter)
        return parameters

    command.get_params = get_plain_params
    for subcommand in getattr(command, "commands", {}).values():
        avoid_pydantic(subcommand)


class _PlainConverter:
    """The converter of one parameter. An instance replaces the parameter's `get_runtime_param`, which is called."""

    def __init__(self, parameter: Any, get_converter: Callable[[], Any]) -> None:
        self._type, self._get_converter = parameter.type_descriptor.annotation, get_converter

    def __call__(self) -> "_PlainConverter":
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value in the parameter's type. Raises a usage error if it cannot be converted."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if type(value) is self._type:  # a string, or the default of another type
            return value
        if self._type is Path and isinstance(value, str | Path):
            path = Path(value)
            if not path.exists() or os.access(path, os.R_OK):
                return path
        return self._get_converter().coerce(value, param=param, ctx=ctx)
