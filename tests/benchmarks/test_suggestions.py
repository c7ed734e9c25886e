"""The measure of the suggestion benchmark, on suggestions whose answers are obvious."""

import random
from pathlib import Path

from benchmarks.suggestions import (
    GhostText,
    LastWords,
    PrefixIndex,
    keys_saved,
    main,
    read_counts,
    shares_shown,
    success,
    with_error,
)
from nextchar.models.text.line_file import fold
from tests.models.runtime.test_line_index import distance

CITIES = {"Berlin": 5, "Bergen": 2, "Bern": 9, "Oslo": 1}


def test_prefix_index_has_the_lines_of_largest_count_first() -> None:
    assert PrefixIndex(CITIES).suggest("ber", 2) == ["Bern", "Berlin"]
    assert PrefixIndex(CITIES).suggest("x", 2) == []


def test_last_words_go_on_as_in_other_queries() -> None:
    peer = LastWords({"cheap flights to rome": 2, "flights to paris": 1})
    assert peer.suggest("book flights to r", 3) == ["book flights to rome"]
    assert peer.suggest("cheap fl", 3) == ["cheap flights to rome", "cheap flights to paris"]


def test_item_is_shown_if_it_is_among_six_whatever_its_case() -> None:
    shares = shares_shown(lambda typed, _: ["OSLO"] if typed == "Oslo" else [], ["Oslo"], has_error=False)
    assert shares == {1: 0.0, 2: 0.0, 3: 0.0, 4: 1.0, 6: None, 8: None}


def test_keys_are_saved_once_an_item_is_shown() -> None:
    def suggest(typed: str, shown: int) -> list[str]:
        return ["Oslo", "Bergen"][:shown] if typed else []

    assert keys_saved(suggest, ["Oslo", "Bergen"], 2) == 1 - (2 + 2) / 10
    assert keys_saved(suggest, ["Oslo", "Bergen"], 1) == 1 - (2 + 6) / 10
    assert keys_saved(suggest, ["Bern"], 2) == 0.0


def test_ghost_text_saves_what_is_accepted_of_the_likeliest_continuation() -> None:
    class Knowing:
        def next(self, prompt: str, *, top: int) -> list[tuple[str, float]]:
            assert top == 1
            known = "Oslo airport\n"
            return [(known[len(prompt)] if known.startswith(prompt) else "\n", 0.99)]

    ghost = GhostText(Knowing())  # type: ignore[arg-type]
    assert ghost.complete("Os").text == "lo airport\n"
    assert ghost.keys_saved(["Oslo airport"]) == 1 - 1 / 12
    assert ghost.keys_saved(["Oslo", "Bern"]) == 1 - (1 + 4) / 8  # of "Oslo" the first word is accepted


def test_success_and_mean_reciprocal_rank() -> None:
    typed = [("a", ""), ("b", ""), ("c", ""), ("d", "")]
    assert success(lambda _, __: ["a", "b"], typed) == (0.5, (1 + 0.5) / 4)


def test_typing_error_is_one() -> None:
    rng = random.Random(0)
    for _ in range(200):
        typed = with_error("berlin", rng)
        assert distance(fold(typed), "berlin") <= 1


def test_list_is_read_with_its_counts(tmp_path: Path) -> None:
    path = tmp_path / "cities.txt"
    path.write_text("".join(f"{city}\t{count}\n" for city, count in CITIES.items()))
    assert read_counts(path) == CITIES


def test_index_is_measured(capsys) -> None:  # type: ignore[no-untyped-def]
    main(["--lines", "3000"])
    assert "3,000" in capsys.readouterr().out
