import random
from functools import cache

import numpy as np
import pytest

from nextchar.models.runtime.line_index import (
    ERROR_BITS,
    INSIDE_BITS,
    KIND_BITS,
    Candidate,
    LineIndex,
    default_typos,
)
from nextchar.models.text.line_file import Lines, fold

CITIES = {
    "Berlin": 3_426_354,
    "Bergen": 213_585,
    "Bern": 121_631,
    "São Paulo": 10_021_295,
    "New York": 8_175_133,
    "York": 144_202,
    "Łódź": 768_755,
    "Санкт-Петербург": 5_028_000,
    "北京": 11_716_620,
}


def index_of(counts: dict[str, int]) -> LineIndex:
    lines = Lines.make(counts)
    assert lines
    return LineIndex(Lines.load(lines.dump()))


@pytest.fixture(scope="module")
def cities() -> LineIndex:
    return index_of(CITIES)


def texts(index: LineIndex, prefix: str, *, typos: int | None = None, context: str = "") -> list[str]:
    typos = default_typos(prefix) if typos is None else typos
    found = index.search(prefix, context=context, typos=typos, wanted=10, most=10)
    return [candidate.text for candidate in found.candidates]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("ber", ["Berlin", "Bergen", "Bern"]),
        ("BERLIN", ["Berlin"]),
        ("sao pau", ["São Paulo"]),
        ("Lodz", ["Łódź"]),
        ("york", ["York", "New York"]),  # at the start, then at a word inside
        ("Berln", ["Berlin", "Bern"]),  # left out, or one too many
        ("Bberli", ["Berlin"]),  # one too many
        ("Bwrlin", ["Berlin"]),  # substituted
        ("Brelin", ["Berlin"]),  # exchanged
        ("Soa Pualo", ["São Paulo"]),
        ("санкт", ["Санкт-Петербург"]),
        ("北", ["北京"]),
        ("zzz", []),
        ("😀", []),
        ("Berlin!!", []),
        ("", sorted(CITIES, key=lambda city: -CITIES[city])),
    ],
)
def test_lines_are_found_despite_case_accents_and_typing_errors(
    cities: LineIndex, prefix: str, expected: list[str]
) -> None:
    typos = 1 if prefix == "Berlin!!" else None
    assert texts(cities, prefix, typos=typos) == expected


def test_typing_error_is_never_preferred_to_a_line_that_begins_with_the_prefix() -> None:
    index = index_of({"carpet": 1, "market": 1_000_000, "cargo": 1_000_000, "market cargo": 5})
    assert texts(index, "carp") == ["carpet", "cargo"]


def test_likelier_error_comes_before_a_larger_count() -> None:
    index = index_of({"berlin": 1, "beclin": 4, "gerlin": 2})
    assert texts(index, "brelin") == ["berlin"]
    assert texts(index, "belin") == ["beclin", "berlin"]  # both left out: the larger count
    exchanged = index_of({"abcd": 1, "bbcd": 4})
    assert texts(exchanged, "bacd") == ["abcd", "bbcd"]  # exchanged, and wrong


def test_line_that_several_errors_lead_to_has_the_likeliest_of_them() -> None:
    # "shag" is "shang" with a character left out, as "shan" with a wrong one.
    index = index_of({"shangrao": 1, "shantou": 1})
    found = index.search("shag", typos=1, wanted=6, most=6).candidates
    assert [(one.text, one.meant) for one in found] == [("shangrao", "shang"), ("shantou", "shan")]
    assert found[0].penalty_bits < found[1].penalty_bits


def test_word_inside_a_line_is_found_despite_an_error_if_nothing_is_found_without() -> None:
    books = {
        "The Hobbit": 9,
        "The Hobbit, or There and Back Again": 2,
        "Tolkien's World": 5,
        "Hobby Horse": 1,
    }
    index = index_of(books)
    assert texts(index, "hobit") == ["The Hobbit", "The Hobbit, or There and Back Again"]
    inside = index.search("tolken", typos=1, wanted=6, most=6).candidates
    assert [(one.text, one.meant, one.is_inside) for one in inside] == [("Tolkien's World", "tolkien", False)]
    one = index.search("agan", typos=1, wanted=6, most=6).candidates[0]
    assert (one.text, one.meant, one.is_inside) == ("The Hobbit, or There and Back Again", "again", True)
    assert one.penalty_bits == ERROR_BITS - KIND_BITS + INSIDE_BITS
    assert texts(index_of({"Hobbit": 1, "The Hobit": 9}), "hobit") == ["The Hobit", "Hobbit"]
    assert texts(index_of({"one Hobit": 1, "The Hobbit": 9}), "hobit") == ["one Hobit"]


def test_accents_that_are_typed_count() -> None:
    index = index_of({"Sao": 5, "São": 3, "Säo": 4})
    assert [c.penalty_bits for c in index.search("sa", typos=0, wanted=9, most=9).candidates] == [0, 10, 10]
    typed = index.search("sã", typos=0, wanted=9, most=9).candidates
    assert min(typed, key=lambda c: c.penalty_bits).text == "São"


def test_line_with_the_accents_that_are_typed_is_found_among_many_without() -> None:
    index = index_of({f"s{i}": 100 + i for i in range(40)} | {"šabac": 1})
    found = index.search("š", typos=0, wanted=6, most=8).candidates
    assert len(found) == 8
    assert "šabac" in {one.text for one in found}
    assert texts(index, "š")[0] == "šabac"


def test_errors_are_in_the_prefix_and_not_in_its_context() -> None:
    index = index_of({"fruit\tapple": 2, "fruit\tapricot": 1, "fruits\tapple": 9})
    assert texts(index, "aplle", context="fruit\t") == ["fruit\tapple"]
    assert texts(index, "", context="fruit\t") == ["fruit\tapple", "fruit\tapricot"]
    assert texts(index, "ap", context="friut\t", typos=2) == []


def distance(typed: str, text: str) -> int:
    """Return the fewest errors with which a beginning of the text may have been typed."""

    @cache
    def least(i: int, j: int) -> int:
        if i == len(typed):
            return 0
        costs = [least(i + 1, j) + 1]
        if j < len(text):
            costs += [least(i, j + 1) + 1, least(i + 1, j + 1) + (typed[i] != text[j])]
        if i + 1 < len(typed) and j + 1 < len(text) and typed[i : i + 2] == text[j : j + 2][::-1]:
            costs.append(least(i + 2, j + 2) + 1)
        return min(costs)

    return least(0, 0)


@pytest.mark.parametrize("typos", [0, 1, 2])
def test_search_finds_what_comparing_with_each_line_finds(typos: int) -> None:
    rng = random.Random(typos)
    counts = {"".join(rng.choices("abC é", k=rng.randint(1, 8))).strip(): 1 for _ in range(300)}
    counts = {text: rng.randint(0, 99) for text in counts if text}
    index = index_of(counts)
    for _ in range(60):
        prefix = "".join(rng.choices("abce ", k=rng.randint(1, 6)))
        errors = {text: distance(fold(prefix), fold(text)) for text in counts}
        found = index.search(prefix, typos=typos, wanted=1000, most=1000)
        starts: dict[str, Candidate] = {c.text: c for c in found.candidates if not c.is_inside}
        inside = {c.text for c in found.candidates if c.is_inside}
        assert starts.keys() | inside == {t for t, n in errors.items() if n <= typos} | inside
        assert all(errors[text] == c.errors for text, c in starts.items())
        nearest = {
            text: min((distance(fold(prefix), w) for w in _ends(fold(text))), default=9) for text in counts
        }
        assert all(nearest[text] <= typos for text in inside)
        if any(c.errors == 0 for c in found.candidates):
            assert all(nearest[text] == 0 for text in inside)
        else:
            assert starts.keys() | inside >= {text for text, n in nearest.items() if n <= typos}


def _ends(text: str) -> list[str]:
    """Return the text from each word after the first on."""
    return [text[i:] for i in range(1, len(text)) if text[i].isalnum() and not text[i - 1].isalnum()]


def test_candidates_are_those_of_largest_count_and_cover_their_part() -> None:
    rng = np.random.default_rng(0)
    counts = {f"a{i:05}": int(n) for i, n in enumerate(rng.integers(1, 1_000_000, 3000))}
    found = index_of(counts).search("a0", typos=0, wanted=10, most=40)
    ordered = sorted((n for text, n in counts.items() if text.startswith("a0")), reverse=True)
    assert [candidate.count for candidate in found.candidates] == ordered[:40]
    assert found.coverage == pytest.approx(sum(ordered[:40]) / sum(ordered))


def test_count_of_a_line(cities: LineIndex) -> None:
    assert cities.count_of("sao paulo") == CITIES["São Paulo"]
    assert cities.count_of("sao") is None
    assert cities.count_of("sao paulo!") is None


def test_file_that_is_not_sorted_is_searched_within_its_arrays() -> None:
    rng = np.random.default_rng(3)
    lines = Lines.make({"".join(rng.choice(list("abc "), 6)): 1 for _ in range(200)})
    assert lines
    shuffled = vars(lines) | {"words": rng.permutation(lines.words).astype(np.uint32)}
    index = LineIndex(Lines.load(Lines(**shuffled).dump()))
    for prefix in ("a", "abca", "bbbbbbbb"):
        index.search(prefix, typos=2, wanted=1000, most=1000)


def test_nothing_is_found_where_all_lines_are_withheld() -> None:
    lines = Lines.make({}, withheld=["Secret"])
    assert lines is not None
    index = LineIndex(Lines.load(lines.dump()))
    assert texts(index, "") == texts(index, "sec") == texts(index, "secrte") == []
    assert index.is_hidden("secret") and index.count_of("secret") is None


def test_added_counts_rank_and_make_lines_known_but_not_those_that_are_held_back() -> None:
    lines = Lines.make({"Berlin": 3, "Bern": 2}, withheld=["Secret"], patterns=["^x"])
    assert lines
    added = {"bern": 4.6, "Bergen": 2.0, "secret": 9.0, "xyz": 9.0}
    index = LineIndex(lines).with_lines(added).with_counts(added)
    assert {c.text: c.count for c in index.search("", typos=0, wanted=9, most=9).candidates} == {
        "Bern": 7,
        "Berlin": 3,
        "Bergen": 2,
    }
    assert texts(index, "be") == ["Bern", "Berlin", "Bergen"]
    assert index.count_of("BERGEN") == 2 and index.is_hidden("secret")
    assert LineIndex(lines).with_counts(added).count_of("Bergen") is None


def test_network_has_less_weight_the_more_of_the_counts_was_added() -> None:
    lines = Lines.make({"a": 1, "b": 1, "c": 1})
    assert lines
    index = LineIndex(lines.with_weight(0.8)).with_counts({"a": 5.0})
    found = {c.text: c for c in index.search("", typos=0, wanted=3, most=3).candidates}
    assert index.weight_among([found["b"], found["c"]]) == 0.8
    assert index.weight_among([*found.values()]) == pytest.approx(0.8 * 3 / 8)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("nyc finanial dis", ["nyc financial dis"]),  # left out
        ("nyc fniancial d", ["nyc financial d"]),  # exchanged
        ("nyc financial ditsr", ["nyc financial distr"]),  # in a word that is not finished
        ("finanxial aid", ["financial aid"]),  # at the beginning of a line, too
        ("cubd ", ["cub ", "cube "]),  # one too many, or a wrong one: the more frequent first
        ("nyc financial", []),  # all are known
        ("nyc zzzzzz", []),
        ("Finanial aid", []),  # no answer for other letters than those of the index
        ("", []),
        ("u b", []),
    ],
)
def test_unknown_word_is_respelled_as_lines_have_it(typed: str, expected: list[str]) -> None:
    queries = ["nyc financial district", "financial aid", "ice cub cake", "cub scouts", "cube root"]
    index = index_of(dict.fromkeys(queries, 1))
    assert index.respelled(typed, 9) == expected
    assert index.respelled(typed, 1) == expected[:1]
