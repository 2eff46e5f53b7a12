"""How a database's own errors become the package's."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from federation.errors import StoreError

__all__ = ["storing"]


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Raise `StoreError` that begins with `what` (a whole clause) for whatever the database or its driver raises.

    The message holds neither SQL nor values.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as e:
        cause = str(getattr(e, "orig", None) or e).splitlines() or [type(e).__name__]
        raise StoreError(f"{what}: the database says: {cause[0]}") from e
