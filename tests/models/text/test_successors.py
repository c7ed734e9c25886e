"""What follows what in a log's lines, and what breaks it."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.models.errors import Unavailable
from nextchar.models.text.masks import Masked, Masks
from nextchar.models.text.successors import Break, Successors

MASKS = Masks(["timestamp", "long_numbers"])
LINES = [
    f'12:{i % 60:02}:07 worker {i % 5} read "/data/{name}" in {i % 90} ms, {1000 + i} bytes: {state}'
    for i in range(400)
    for name in ("ann", f"file{i}")
    for state in ("ok", "cached")
]


def learned(lines: list[str], masks: Masks = MASKS) -> Successors:
    made = Successors.fit(map(masks.apply, lines), lines)
    return Successors.load(made.dump())


KNOWN = learned(LINES)


def find(line: str, known: Successors = KNOWN) -> Break | None:
    return next(iter(known.find(MASKS.apply(line), line)), None)


@pytest.mark.parametrize(
    "line", [*LINES[::97], '12:00:07 worker 3 read "/data/file999" in 9 ms, 1234 bytes: ok']
)
def test_lines_like_those_known_break_nothing(line: str) -> None:
    assert find(line) is None


@pytest.mark.parametrize(
    ("line", "reason", "broken"),
    [
        (LINES[5].replace("read", "zebra"), '"zebra" where "', "zebra"),
        (
            LINES[5].replace("ok", "lost").replace("cached", "lost"),
            '"lost" where "cached" or "ok" was',
            "lost",
        ),
        (LINES[5].replace("worker", "read").replace(' read "', ' worker "'), "was expected", ""),
        (LINES[5].replace(" bytes", "a bytes"), '"1001a" where "<*>" was expected', ""),
        (LINES[5].replace(" ms", "999 ms"), '1,999 after "in": the highest before was 89', ""),
        (LINES[5].replace(" bytes", "99 bytes"), "the highest before was 1,399", ""),
        (LINES[5].replace('ann"', "ann"), "a quote or bracket is not closed as in other lines", ""),
        (LINES[5][: LINES[5].index(" ms")], "the line ends", ""),
    ],
)
def test_what_hardly_any_line_has_in_its_place_is_found(line: str, reason: str, broken: str) -> None:
    found = find(line)
    assert found is not None and reason in found.reason
    assert broken in MASKS.apply(line).text[found.start : found.end]
    assert found.p_value == pytest.approx(1 / (0.4 * len(LINES) + 1))


def test_where_any_word_may_follow_none_is_rare() -> None:
    r = random.Random(1)
    lines = [f"user {''.join(r.choices('abcdefgh', k=6))} logged in" for _ in range(600)]
    assert find("user zebra logged in", learned(lines, Masks([]))) is None
    rare = find("user abcdef zebra in", learned(lines, Masks([])))
    assert rare is not None and rare.p_value < 0.01


def test_a_word_that_no_line_has_is_found_within_a_token() -> None:
    names = ("red", "blue", "green")
    lines = [f"GET /shop/{names[i % 3]}/{i} done by {i % 7}" for i in range(600)]
    found = find("GET /shop/etc/passwd done by 3", learned(lines, Masks([])))
    assert found is not None and found.p_value < 0.01 and "etc" in found.reason


def test_the_p_value_is_the_fraction_of_normal_lines_with_such_a_break() -> None:
    lines = [f"{'restart' if i in (700, 800, 801) else 'tick'} {i % 7} of {i % 5} done" for i in range(1000)]
    found = find("done 1 of 1 done", learned(lines, Masks([])))
    # `restart` is new after the first 600 lines, and counts once.
    assert found is not None and found.p_value == pytest.approx(2 / 401)


def test_new_words_that_are_usual_hide_no_numbers() -> None:
    lines = [f"{'new' + 'x' * (i // 40) if i % 40 == 0 else 'job'} took {i % 9} ms" for i in range(1000)]
    known = learned(lines, Masks([]))
    number, word = find("job took 999 ms", known), find("zebra took 3 ms", known)
    assert number is not None and number.p_value == pytest.approx(1 / 401)
    assert word is None or word.p_value > 0.01


def test_the_order_of_independent_lines_means_nothing() -> None:
    lines = [
        f"{'restart' if i > 1000 and i % 100 == 0 else 'tick'} {i % 7} of {i % 5} done" for i in range(1600)
    ]
    masked = [Masked(line, None) for line in lines]
    in_order, independent = (
        find("done 1 of 1 done", Successors.fit(masked, lines, are_independent=is_so))
        for is_so in (False, True)
    )
    assert in_order is not None and in_order.p_value == pytest.approx(2 / 641)
    assert independent is not None and independent.p_value == pytest.approx(1 / 641)


def test_breaks_of_independent_lines_alone_enter_the_score() -> None:
    lines = [f"tick {i % 7} of {i % 5} done" for i in range(1600)]
    masked = [Masked(line, None) for line in lines]
    for are_independent, bits in ((False, 0.0), (True, math.log2(641) / 2)):
        known = Successors.fit(masked, lines, are_independent=are_independent)
        found = find("tick 1 of 1 lost", Successors.load(known.dump()))
        assert found is not None and found.score_bits == pytest.approx(bits)


def test_what_is_more_improbable_than_in_all_lines_is_estimated_to_be_rarer() -> None:
    lines = [f"{'GET' if i % 2 else 'PUT'} /{i % 50} of {i % 7}" for i in range(4000)]
    found = find("zebra /7 of 3", learned(lines, Masks([])))
    assert found is not None and found.estimated_p < found.p_value / 4 < 1 / 1000


def test_an_event_of_several_lines_is_judged_by_its_fingerprint() -> None:
    event = "task {} failed badly\njava.io.IOException: x\n\tat org.me.C.d(C.java)"
    known = learned([event.format(i % 9) for i in range(700)], Masks([]))
    assert find(event.format(3), known) is None
    found = find(event.format(3).replace("failed", "zebra"), known)
    assert found is not None and (found.start, found.end) == (0, 0)


def test_few_lines_say_nothing() -> None:
    assert all(one.p_value > 0.01 for one in learned(LINES[:100]).find(Masked("zebra", None), "zebra"))
    assert find("zebra", learned([])) is None


LINE = st.text(alphabet='ab1 =,:"(é⑴ⓣⓝ', max_size=24)


@settings(deadline=None)
@given(st.lists(LINE, max_size=30), LINE)
def test_any_lines_can_be_learned_and_read(lines: list[str], line: str) -> None:
    for repeated in (1, 40):
        known = learned(lines * repeated)
        assert all(0 < one.p_value <= 1 for one in known.find(Masked(line, None), line))
        find(line, known)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 9},
        {"contexts": [[["a"], 1, None, 0, None, 1, {}]]},
        {"contexts": [[["a"], 1, None, 1, None, 1, {"0": [1]}]]},
        {"contexts": [["a"]]},
        {"lines": None},
        {"strengths": ["x"]},
        {"strengths": [{"text": -1}]},
        {"strengths": [{}]},
        {"words": 3},
        {"known": [["a"], 0, []]},
        {"known": [["a"], 0.5, [[["a"], 1]]]},
        {"known": 3},
    ],
)
def test_impossible_files_are_refused(change: dict[str, object]) -> None:
    record = json.loads(KNOWN.dump()) | change
    with pytest.raises(Unavailable):
        Successors.load(json.dumps(record).encode())
    with pytest.raises(Unavailable, match="damaged"):
        Successors.load(KNOWN.dump()[:-5])


def test_files_of_earlier_versions_know_no_words() -> None:
    record = json.loads(KNOWN.dump()) | {"strengths": [9.5, 10.0]}
    del record["known"]
    known = Successors.load(json.dumps(record).encode())
    assert find(LINES[5].replace("/data", "/zebra"), known) is None
    assert find(LINES[5].replace("/data", "/zebra")) is not None
