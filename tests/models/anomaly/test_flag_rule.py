"""Which lines are flagged, which are repeats, and why."""

import json
import random
import tracemalloc
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.models.anomaly.alerts import AlertKey
from nextchar.models.anomaly.flag_rule import CHANGED_KEY, WINDOW_LINES, Change, Evidence, FlagRule, Verdict
from nextchar.models.text.successors import Break
from nextchar.models.text.templates import Templates

KNOWN = Templates.fit(
    [f"login of user{i} from host{i % 7}" for i in range(40)]
    + ["disk sda of the second array is full again"] * 25
)

Line = tuple[str, float]  # its text and its score; a score of 0 is not rare


def judge(rule: FlagRule, lines: Sequence[Line], *, now: float | None = None) -> list[Verdict | None]:
    """Return what becomes of lines; None of those that are not rare."""
    return [_judge(rule, *line, now=now) for line in lines]


def _judge(rule: FlagRule, text: str, score: float, now: float | None) -> Verdict | None:
    if not score:
        rule.count(is_unusual=False)
        return None
    return rare(rule, text, score, now=now)


def rare(
    rule: FlagRule, text: str, score: float, breaks: Sequence[Break] = (), *, now: float | None = None
) -> Verdict:
    """Return what becomes of a line that is rare for its score, or for breaks alone."""
    parsed = KNOWN.parse(text)
    key = AlertKey(parsed.template.pattern, "0:x")
    p, is_rare = 2**-score, not breaks
    found = Evidence(text, key, parsed.template.is_new, score, p, breaks, is_rare, text)
    return rule.judge(found, now=now)


def broken(text: str, place: str = "text (' of',)", *, bits: float = 11.0, kind: str = "text") -> Break:
    return Break(0.001, 0.001, kind, place, text, "", 0, 0, bits)


def flags(rule: FlagRule, lines: Sequence[Line]) -> list[bool]:
    """Return which of rare lines are flagged."""
    return [bool(verdict and verdict.is_flagged) for verdict in judge(rule, lines)]


def new_kind(count: int, *, score: float = 12.0) -> list[Line]:
    """Return lines of one new template."""
    return [(f"fan {i} of the power supply stopped turning", score) for i in range(count)]


def test_of_a_new_kind_the_first_line_is_flagged_and_the_others_count_in_its_alert() -> None:
    verdicts = judge(FlagRule(0.01, KNOWN), new_kind(30))
    assert [v and v.is_flagged for v in verdicts] == [True] + [False] * 29
    assert len({v.key for v in verdicts if v}) == 1


def test_the_first_line_of_another_new_kind_is_flagged_in_a_flood() -> None:
    other = ("battery of the controller card failed to charge", 12.0)
    assert flags(FlagRule(0.01, KNOWN), [*new_kind(500), other])[-1]


def test_flagged_lines_of_one_new_template_are_of_one_alert() -> None:
    rule = FlagRule(0.01, KNOWN)
    judge(rule, [("", 0.0)] * 10_000)
    keys = [AlertKey("fan <*> of the power supply stopped turning", f"{i}:fan") for i in range(30)]
    lines = [
        Evidence(text, key, True, 12.0, 2**-12) for (text, _), key in zip(new_kind(30), keys, strict=True)
    ]
    verdicts = list(map(rule.judge, lines))
    assert sum(verdict.is_flagged for verdict in verdicts) > 5
    assert {verdict.key for verdict in verdicts} == {keys[0]}


def test_damaged_lines_are_flagged_in_a_flood_of_new_templates() -> None:
    r = random.Random(1)
    rule = FlagRule(0.01, KNOWN)
    judge(rule, [(" ".join(_word(r) for _ in range(6)), r.uniform(12, 30)) for _ in range(1_000)])
    damaged = ("login of user1 zebra host1", "disk sda of the sec")
    assert all(rare(rule, text, 7.0, [broken(text, text)]).is_flagged for text in damaged)


def test_a_number_out_of_range_is_flagged_in_a_flood_of_new_words() -> None:
    rule = FlagRule(0.01, KNOWN)
    for i in range(500):
        rare(rule, f"login of user{i} from mars", 20.0, [broken("mars", f"word ({i},)", kind="word")])
    assert not rare(rule, "login of zebra", 9.0, [broken("zebra", "word (' of',)", kind="word")]).is_flagged
    number = broken("999", "number (' of',)", kind="number")
    assert rare(rule, "login of user999 from mars", 9.0, [number]).is_flagged


def test_each_break_that_no_line_had_flags_a_line_in_a_flood_of_new_words() -> None:
    rule = FlagRule(0.01, KNOWN)
    for i in range(500):
        rare(rule, f"login of user{i} from mars", 20.0, [broken("mars", f"word ({i},)", kind="word")])
    word, number = (broken("zebra", f"{kind} (' of',)", kind=kind) for kind in ("word", "number"))
    assert rare(rule, "login of zebra", 9.0, [word, number]).is_flagged
    assert not rare(rule, "login of zebra", 9.0, [word, number]).is_flagged


def test_of_lines_with_a_break_in_one_place_two_are_flagged() -> None:
    r = random.Random(1)
    rule = FlagRule(0.01, KNOWN)
    words = [_word(r) for _ in range(30)]
    verdicts = [rare(rule, f"login of user1 {word} host1", 9.0, [broken(word)]) for word in words]
    assert [verdict.is_flagged for verdict in verdicts] == [True] * 2 + [False] * 28
    assert {verdict.key for verdict in verdicts[2:]} == {verdicts[1].key}


def test_a_repeat_with_another_break_is_flagged() -> None:
    rule = FlagRule(0.01, KNOWN)
    known = broken("mars", "text (' from',)", bits=14.0)
    flood = [rare(rule, f"login of user{i} from mars", 9.0, [known]) for i in range(100)]
    assert [verdict.is_flagged for verdict in flood[:3]] == [True, True, False]
    other = [known, broken("zebra")]
    assert rare(rule, "login zebra user1 from mars", 9.0, other).is_flagged
    assert not rare(
        FlagRule.load(rule.dump(), 0.01, KNOWN), "login zebra user1 from mars", 9.0, other
    ).is_flagged


def test_once_many_lines_are_as_rare_they_are_less_severe() -> None:
    r = random.Random(1)
    rule = FlagRule(0.01, KNOWN)
    judge(rule, [("", 0.0)] * 900)
    few = [rare(rule, f"{_word(r)} {_word(r)} failed {_word(r)}", 20.0) for _ in range(5)]
    assert [verdict.estimated_p for verdict in few] == [2**-20] * 5
    judge(rule, [(f"login of user{i} from mars", 9.0) for i in range(60)])
    assert rare(rule, f"{_word(r)} {_word(r)} failed {_word(r)}", 20.0).estimated_p > 1e-3
    assert rare(rule, "bus error now", 25.0).estimated_p == 2**-25


def test_lines_of_every_kind_that_are_as_rare_make_a_line_less_severe() -> None:
    rule = FlagRule(0.01, KNOWN)
    judge(rule, [("", 0.0)] * 900)
    for i in range(60):
        rare(rule, f"login of user{i} from mars", 20.0, [broken("mars", f"word ({i},)", kind="word")])
    assert rare(rule, "bus error now", 20.0).estimated_p > 1e-2


@pytest.mark.parametrize(("normal", "flagged"), [(0, 1), (10_000, 12)])
def test_a_kind_is_flagged_while_it_has_a_tenth_of_what_the_rate_explains(normal: int, flagged: int) -> None:
    lines: list[Line] = [("", 0.0)] * normal + new_kind(50)
    assert sum(flags(FlagRule(0.01, KNOWN), lines)) == pytest.approx(flagged, abs=1)


@pytest.mark.parametrize("normal", [0, 3_000])
def test_more_lines_than_the_rate_explains_are_repeats(normal: int) -> None:
    rule = FlagRule(0.01, KNOWN)
    flagged = sum(flags(rule, [*[("", 0.0)] * normal, *[("login of eve from nowhere", 7.0)] * 2_000]))
    assert flagged <= 0.02 * (normal + 2_000)


def test_a_line_that_is_rarer_than_what_changed_is_flagged_in_a_flood() -> None:
    r = random.Random(1)
    flood: list[Line] = [(f"{_word(r)} {_word(r)} failed", r.uniform(7, 9)) for _ in range(1_000)]
    rule = FlagRule(0.01, KNOWN)
    assert sum(flags(rule, flood)) <= 60
    assert flags(rule, [("bus error now", 20.0)]) == [True]


def test_further_lines_of_a_flood_are_of_one_alert() -> None:
    r = random.Random(1)
    flood: list[Line] = [(f"{_word(r)} {_word(r)} failed", 7.0) for _ in range(1_000)]
    verdicts = [verdict for verdict in judge(FlagRule(0.01, KNOWN), flood) if verdict]
    assert {v.key for v in verdicts if not v.is_flagged} == {CHANGED_KEY}


LINES = st.lists(
    st.one_of(
        st.just(("", 0.0)),
        st.sampled_from(
            [
                *new_kind(3),
                ("disk sda of the second zebra is full again", 9.0),
                ("login of eve from mars", 15.0),
            ]
        ),
        st.tuples(st.text("ab =1", min_size=1, max_size=8), st.floats(6.7, 30.0)),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(LINES, st.lists(st.integers(0, 60), max_size=5))
def test_flags_do_not_depend_on_how_lines_are_divided(lines: list[Line], cuts: list[int]) -> None:
    whole = judge(FlagRule(0.01, KNOWN), lines)
    parts: list[Verdict | None] = []
    state: bytes | None = None
    ends = [*sorted(cuts), len(lines)]
    for start, end in zip([0, *ends], ends, strict=False):
        rule = FlagRule.load(state, 0.01, KNOWN)
        parts += judge(rule, lines[start:end])
        state = rule.dump()
    assert parts == whole


def test_what_was_long_ago_is_forgotten() -> None:
    rule = FlagRule(0.01, KNOWN)
    once = new_kind(1)
    assert flags(rule, once * 2) == [True, False]
    for _ in range(2 * WINDOW_LINES):
        rule.count(is_unusual=False)
    assert flags(rule, once) == [True]
    assert rule.lines <= WINDOW_LINES


def test_a_break_that_recurs_is_not_forgotten() -> None:
    rule = FlagRule(0.01, KNOWN)
    breaks = [broken(word, f"text (' {word}',)") for word in ("mars", "venus", "pluto", "zebra")]
    for one in [breaks[-1]] + breaks[:-1] * 20:
        rare(rule, "fan 1 of the power supply stopped turning", 12.0, [one])
    judge(rule, [("", 0.0)] * WINDOW_LINES)
    assert rule.lines < WINDOW_LINES
    again = FlagRule.load(rule.dump(), 0.01, KNOWN)
    new = [not again._was_seen(one) for one in breaks]
    assert new == [False, False, False, True]


def test_kinds_take_little_memory_however_many_there_are() -> None:
    r = random.Random(2)
    rule = FlagRule(0.01, KNOWN)
    tracemalloc.start()
    judge(rule, [(" ".join(_word(r) for _ in range(8)), 12.0) for _ in range(5_000)])
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert len(rule.dump()) < 1 << 20


def test_state_with_breaks_in_a_list_or_without_any_is_read() -> None:
    rule, one = FlagRule(0.01, KNOWN), broken("mars", "text")
    rare(rule, "fan 1 of the power supply stopped turning", 12.0, [one])
    record = json.loads(zlib.decompress(rule.dump()))
    for older in (record | {"seen": list(record["seen"])}, {k: v for k, v in record.items() if k != "seen"}):
        again = FlagRule.load(zlib.compress(json.dumps(older).encode()), 0.01, KNOWN)
        assert (again.lines, again._was_seen(one)) == (rule.lines, "seen" in older)


def test_damaged_state_starts_again() -> None:
    assert FlagRule.load(b"x", 0.01, KNOWN).lines == 0


def change(lines: Sequence[Line]) -> Change | None:
    rule = FlagRule(0.01, KNOWN)
    judge(rule, lines, now=5.0)
    return rule.change(lambda key: key.alert_id("m"))


def test_few_new_templates_are_new_kinds_of_events() -> None:
    found = change([("", 0.0)] * 300 + new_kind(100) + [("a bus error in the main memory", 9.0)] * 20)
    assert found is not None
    assert (found.kind, found.kinds, found.lines, found.action) == ("new_kinds", 2, 120, "examples")
    assert [(one.lines, one.line) for one in found.examples] == [
        (100, new_kind(1)[0][0]),
        (20, "a bus error in the main memory"),
    ]
    assert found.since == 5.0
    assert found.sentence.startswith("2 new kinds of events, 120 of 420 lines:")


def test_new_templates_of_one_line_each_are_new_kinds_of_events() -> None:
    r = random.Random(3)
    boot = [(" ".join(_word(r) for _ in range(6)), 12.0) for _ in range(40)]
    found = change([("", 0.0)] * 300 + boot)
    assert found is not None
    assert (found.kind, found.kinds, found.lines) == ("new_kinds", 40, 40)


def test_known_templates_with_other_values_are_a_change_of_values() -> None:
    found = change([("", 0.0)] * 300 + [("login of eve from nowhere", 7.0)] * 60)
    assert found is not None
    assert (found.kind, found.lines, found.action) == ("values", 60, "train")


def test_lines_that_are_like_nothing_known_are_another_log() -> None:
    r = random.Random(3)
    found = change([(" ".join(_word(r) for _ in range(1 + i % 9)), 12.0) for i in range(300)])
    assert found is not None and found.kind == "log"


def test_what_the_rate_explains_is_no_change() -> None:
    assert change([("", 0.0)] * 1_000 + [("login of eve from nowhere", 7.0)] * 10) is None
    assert change(new_kind(30)) is None  # too few lines


def _word(r: random.Random) -> str:
    return "".join(r.choice("abcdefghijklmnop") for _ in range(6))
