"""Pagination of lists by the id of the last item of the page before."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from nextchar.models.errors import InvalidInput

T = TypeVar("T")


def paginate(
    items: Sequence[T], id_of: Callable[[T], str], *, after: str | None, limit: int
) -> tuple[list[T], bool]:
    """Return at most `limit` items after the one whose id is `after`, and whether more follow.

    >>> paginate("abcd", str, after="a", limit=2)
    (['b', 'c'], True)

    Raises:
        InvalidInput: no item of the list has that id.
    """
    start = 0
    if after is not None:
        start = next((i + 1 for i, item in enumerate(items) if id_of(item) == after), 0)
        if not start:
            raise InvalidInput(
                f"the list has no item with the id {after!r}; start again without after",
                code="unknown_cursor",
                param="after",
            )
    return list(items[start : start + limit]), start + limit < len(items)
