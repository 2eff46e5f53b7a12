"""Plain values of options and arguments, taken without pydantic.

typer imports pydantic to convert any value of a parameter, also a text to a text, and the import takes as long as a
whole `status`. These functions take the values that need no conversion, and leave the others to typer.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["convert_plainly"]


def convert_plainly(command: Any) -> None:
    """Let the parameters of a command, and of the commands of a group, take plain values without pydantic.

    Another release of typer has another way to convert values, and is left as it is.
    """
    listed = command.get_params

    def get_params(context: Any) -> list[Any]:
        parameters: list[Any] = listed(context)  # with `--help`, which typer makes here
        for parameter in parameters:
            convert = getattr(parameter, "get_runtime_param", None)
            if convert is not None and not isinstance(convert, _Plain):
                parameter.get_runtime_param = _Plain(parameter, convert)
        return parameters

    command.get_params = get_params
    for inner in getattr(command, "commands", {}).values():
        convert_plainly(inner)


class _Plain:
    """Converts the values of one parameter, in the place of typer's own converter."""

    def __init__(self, parameter: Any, converter: Callable[[], Any]) -> None:
        self._kind, self._converter = parameter.type_descriptor.annotation, converter

    def __call__(self) -> "_Plain":
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value for the command; raise a usage error where it is not of the parameter's type."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if self._kind is str and isinstance(value, str):
            return value
        if self._kind is Path and isinstance(value, str | Path):
            path = Path(value)
            if not path.exists() or os.access(path, os.R_OK):
                return path
        return self._converter().coerce(value, param=param, ctx=ctx)
