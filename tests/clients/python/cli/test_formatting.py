"""Tables in a terminal: what is copied stays on one line where there is room, and nothing is cut off."""

import io

from rich.console import Console

from nextchar.cli.formatting import print_table

ID = "corpus_a6ebb63677fb164787331c46"


def printed(header: list[str], row: list[str], *, width: int) -> str:
    console = Console(force_terminal=True, no_color=True, width=width, file=io.StringIO())
    print_table(console, header, [row])
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_an_id_stays_on_one_line_while_words_wrap() -> None:
    table = printed(["name", "id", "created"], ["names", ID, "2026-11-27 21:16"], width=55)
    assert ID in table and "2026-11-27 21:16" not in table


def test_nothing_is_cut_off_in_a_terminal_that_is_too_narrow() -> None:
    table = printed(["name", "id"], ["names", ID], width=20)
    folded = "".join(line[7:].strip() for line in table.splitlines()[1:])
    assert folded == ID
