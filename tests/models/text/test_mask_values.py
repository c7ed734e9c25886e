"""Malformed values: which ones stay unmasked, and that well-formed ones are masked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.logs import normal_lines
from nextchar.models.errors import Unavailable
from nextchar.models.text.log_detection import detect_log
from nextchar.models.text.mask_values import MaskValues
from nextchar.models.text.masks import Masks
from tests.logs import LOGS
from tests.malformed_values import MALFORMED, MASKS, WELL_FORMED, log

_MASKS = Masks(MASKS)
_KNOWN = MaskValues.fit(_MASKS, log(1000))


def masked(line: str, known: MaskValues = _KNOWN) -> str:
    return _MASKS.apply(line, is_masked=known.is_well_formed).text


@pytest.mark.parametrize(("line", "value"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_value_is_not_masked(line: str, value: str) -> None:
    assert value in line and value in masked(line)
    assert value not in _MASKS.apply(line).text  # the masks alone would hide it


@pytest.mark.parametrize("line", WELL_FORMED)
def test_a_well_formed_value_is_masked(line: str) -> None:
    assert masked(line) == _MASKS.apply(line).text


def test_every_line_of_the_corpus_and_of_its_continuation_is_masked() -> None:
    assert all(masked(line) == _MASKS.apply(line).text for line in log(3000))


@pytest.mark.parametrize("name", sorted(LOGS))
def test_values_of_later_lines_are_well_formed(name: str) -> None:
    lines = list(LOGS[name](2000))
    assert malformed_share(lines) <= 0.002


@pytest.mark.parametrize("name", ["openssh_2k.log", "bgl_2k_labelled.tsv", "http_params_labelled.tsv"])
def test_values_of_later_lines_of_real_logs_are_well_formed(
    name: str, real_text: Callable[[str], str], tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(real_text(name))
    assert malformed_share(normal_lines(file)) <= 0.002


def malformed_share(lines: list[str]) -> float:
    """The share of the last lines that have a malformed value, by the first 60 %, as in the benchmark."""
    trained, later = lines[: 6 * len(lines) // 10], lines[7 * len(lines) // 10 :]
    masks = Masks(detect_log(trained).masks or MASKS)
    known = MaskValues.fit(masks, trained)
    found = [
        masks.apply(line, is_masked=known.is_well_formed).text != masks.apply(line).text for line in later
    ]
    return sum(found) / len(found)


def test_values_that_the_corpus_breaks_a_rule_with_are_no_rule() -> None:
    """Such as a version number that has the form of an address."""
    lines = [f"version 10.{i}.2.1 of 2026-13-{10 + i % 90}" for i in range(500)]
    known = MaskValues.fit(_MASKS, lines)
    assert masked("version 10.999.2.1 of 2026-13-99", known) == "version ⓘ of ⓣ"


def test_a_field_of_more_formats_than_are_kept_has_no_rule_about_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks = Masks(["timestamp"])
    lines = ["at 2026-05-02 10:00:00", "at 2026/05/02 10:00:00", "at 2026.05.02 10:00:00"] * 100
    for formats, expected in ((3, "at 10:00:00"), (2, "at ⓣ")):
        monkeypatch.setattr("nextchar.models.text.mask_values.MAX_FORMATS", formats)
        known = MaskValues.fit(masks, lines)
        assert masks.apply("at 10:00:00", is_masked=known.is_well_formed).text == expected


@pytest.mark.parametrize(
    "time",
    [
        "2024-02-29 00:00:00", "2026-12-31T23:59:60Z", "2005-06-03-15.42.50.675872", "Feb 29 24:00:00",
        "03:59:59", "2026/01/31", "2026.01.31",
    ],
)  # fmt: skip
def test_a_time_that_exists_is_well_formed(time: str) -> None:
    masks = Masks(["timestamp"])
    known = MaskValues.fit(masks, [f"at {time}"] * 500)
    assert masks.apply(f"at {time}", is_masked=known.is_well_formed).text == "at ⓣ"
    assert not known.fields["timestamp"][""].invalid


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ("30/Jan/2024:21:04:18 +0000", "31/Feb/2024:21:04:18 +0000"),
        ("Sat Dec 30 09:00:01.123 2023", "Sat Dec 32 09:00:01.123 2023"),
        ("17/06/09 20:10:40", "17/33/09 20:10:40"),
        ("Mon, 9 Jun 2025 10:11:12", "Mon, 9 Jun 2025 10:71:12"),
        ("20171223-22:15:29:606", "20171323-22:15:29:606"),
        ("1/30/2024 21:04:18", "13/30/2024 21:04:18"),
        ("Dec 10, 2023 6:55:46 AM", "Dec 10, 2023 6:55:99 AM"),
    ],
)
def test_a_date_that_does_not_exist_is_malformed(known: str, other: str) -> None:
    masks = Masks(["date"])
    assert masks.apply(other).text == "ⓓ"
    values = MaskValues.fit(masks, [known] * 500)
    assert masks.apply(known, is_masked=values.is_well_formed).text == "ⓓ"
    assert masks.apply(other, is_masked=values.is_well_formed).text == other


def test_a_time_of_another_format_is_malformed_in_a_known_field_alone() -> None:
    masks = Masks(["timestamp"])
    known = MaskValues.fit(masks, ["at 2026-05-02 10:00:00.5"] * 500)
    of = [masks.apply(line, is_masked=known.is_well_formed).text for line in (
        "at 2026-05-02 10:00:01", "at 2026-05-02", "at 2026/05/02 10:00:00", "built 2026/05/02",
    )]  # fmt: skip
    assert of == ["at ⓣ", "at 2026-05-02", "at 2026/05/02 10:00:00", "built ⓣ"]


def test_the_file_says_the_same() -> None:
    again = MaskValues.load(_KNOWN.dump())
    assert again.fields == _KNOWN.fields
    assert MaskValues.load(MaskValues.fit(Masks([]), ["a"]).dump()).fields == {}


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_damaged_file_is_refused(cut: int) -> None:
    with pytest.raises(Unavailable, match="damaged"):
        MaskValues.load(_KNOWN.dump()[:cut])


@pytest.mark.parametrize(
    "masks",
    [[], {"ip": {}}, {"ip": {"": {"count": "many"}}}, {"ip": {"": {"formats": [1]}}}, {"ip": {"": {"x": 1}}}],
)
def test_an_impossible_file_is_refused(masks: object) -> None:
    with pytest.raises(Unavailable, match="damaged"):
        MaskValues.load(json.dumps({"format_version": 1, "masks": masks}).encode())


def counted(count: int) -> str:
    return f"steps={count} app=3 status={200 + count % 4}"


def test_a_counter_that_begins_anew_is_masked_as_before() -> None:
    masks = Masks(["long_numbers"])
    known = MaskValues.fit(masks, [counted(4000 + i) for i in range(200)] + [counted(7)])
    shown = masks.apply(counted(0), is_masked=known.is_well_formed, short_numbers=True)
    assert shown.text == "steps=ⓛ app=3 status=200"
    assert masks.apply(counted(0)).text == counted(0)
