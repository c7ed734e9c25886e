"""Lists cut into pages by the id of the last thing seen."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from models.errors import InvalidInput

T = TypeVar("T")


def paginate(
    things: Sequence[T], id_of: Callable[[T], str], *, after: str | None, limit: int
) -> tuple[list[T], bool]:
    """Return at most `limit` things behind the one whose id is `after`, and whether more follow.

    >>> paginate("abcd", str, after="a", limit=2)
    (['b', 'c'], True)

    Raises:
        InvalidInput: nothing in the list has that id.
    """
    begin = 0
    if after is not None:
        begin = next((i + 1 for i, thing in enumerate(things) if id_of(thing) == after), 0)
        if not begin:
            raise InvalidInput(
                f"the list has nothing with the id {after!r}; start again without after",
                code="unknown_cursor",
                param="after",
            )
    return list(things[begin : begin + limit]), begin + limit < len(things)
