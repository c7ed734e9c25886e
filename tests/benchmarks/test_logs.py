"""Damage that is planted in logs, and a log and nothing else: its later lines are hardly ever flagged."""

import random

import pytest

from benchmarks.logs import measure, plant
from benchmarks.web_trial import _made_strange, requests
from tests.logs import LOGS


def test_damaged_copies_of_lines_are_inserted_and_noted() -> None:
    lines = [f"user {name} logged in from host {i}" for i in range(20) for name in ("ann", "bob")]
    mixed, planted = plant(lines, ["another log"], random.Random(0))
    assert [line for i, line in enumerate(mixed) if i not in planted] == lines
    kinds = list(planted.values())
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        ["swapped", "word", "number", "cut", "another log"], 2
    )
    assert all(mixed[place] not in lines for place in planted)


def test_foreign_words_and_numbers_take_the_place_of_whole_ones_not_of_parts_of_ids() -> None:
    lines = [f"session 7a{i}bEf from port {i}" for i in range(2000)]
    mixed, planted = plant(lines, ["another log"], random.Random(0))
    damaged = [mixed[place] for place, kind in planted.items() if kind in ("word", "number")]
    assert len(damaged) == 16 and all("7a" in line and "bEf" in line for line in damaged)


def test_requests_are_made_strange_in_their_path_or_method_and_change_after_a_deployment() -> None:
    lines = list(requests(200, random.Random(1), ["10.0.0.7"]))
    assert len(lines) == 200 and not any("/v2/" in line for line in lines)
    r = random.Random(2)
    assert all(_made_strange(line, r).split('"')[1] != line.split('"')[1] for line in lines)
    assert any("/v2/" in line for line in requests(200, random.Random(1), ["10.0.0.7"], day=15))


@pytest.mark.long
def test_later_lines_of_a_log_are_rarely_flagged_and_damage_is_found() -> None:
    found = measure(list(LOGS["syslog"](2000)), ["another log"], seconds=30, steps=40, preset="tiny")
    assert found["rate"] == 0.01 and found["flagged"] <= 0.05 and found["found"] >= 0.5
