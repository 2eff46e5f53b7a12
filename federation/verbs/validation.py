"""Validation of request fields; a fault is a refusal that names the field. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from federation.errors import Reason, Refusal

MAX_RESOURCE: Final = 64
MAX_ID: Final = 1_024
"""Bytes of 256 characters in UTF-8."""
MAX_QUERY: Final = 1_024
MAX_WHERE: Final = 16
MAX_WHERE_KEY: Final = 128
MAX_WHERE_VALUE: Final = 1_024
MAX_RESOURCES: Final = 16


def invalid(field: str, problem: str) -> Refusal:
    """Build an INVALID_REQUEST refusal that names a field."""
    return Refusal(Reason.INVALID_REQUEST, f"{field}: {problem}", detail=field)


def bounded_text(field: str, text: str, most: int, *, least: int = 1) -> str:
    """Return `text` if it has `least` to `most` bytes and no NUL, which databases reject; raise `Refusal` otherwise."""
    if not least <= len(text.encode()) <= most:
        raise invalid(field, f"must have {least} to {most} bytes" if text else "is missing")
    if "\0" in text:
        raise invalid(field, "must not contain NUL")
    return text


def checked_page_size(page_size: int) -> int:
    """Return a page size that is not negative; the scope caps large ones."""
    if page_size < 0:
        raise invalid("page_size", "must not be negative")
    return page_size


def checked_where(where: Mapping[str, str]) -> dict[str, str]:
    """Return the equality filter of a list as a dict, after checking its bounds."""
    if len(where) > MAX_WHERE:
        raise invalid("where", f"must have at most {MAX_WHERE} fields")
    return {
        bounded_text("where", key, MAX_WHERE_KEY): bounded_text(f"where.{key}", value, MAX_WHERE_VALUE, least=0)
        for key, value in where.items()
    }


def checked_resources(resources: Sequence[str]) -> tuple[str, ...]:
    """Return the resources of a search without duplicates, after checking their bounds."""
    if len(resources) > MAX_RESOURCES:
        raise invalid("resources", f"must name at most {MAX_RESOURCES}")
    return tuple(dict.fromkeys(bounded_text("resources", name, MAX_RESOURCE) for name in resources))
