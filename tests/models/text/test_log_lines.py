from pathlib import Path

import pytest

from models.text.log_lines import CLASSES, LineSample, Recognized, recognize
from models.text.masks import Masks
from tests.logs import LOGS, access_log, syslog

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"


def recognized(text: str, *, piece: int = 10_000) -> Recognized:
    sample = LineSample()
    for start in range(0, len(text), piece):
        sample.feed(text[start : start + piece])
    return recognize(sample.lines())


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        ("syslog", ("timestamp", "ip", "long_numbers")),
        ("access_log", ("date", "long_numbers")),
        ("json_log", ("timestamp", "uuid")),
        ("counting_log", ("long_numbers", "digits")),
    ],
)
def test_what_changes_from_line_to_line_of_a_log_is_suggested(name: str, masks: tuple[str, ...]) -> None:
    found = recognized("".join(line + "\n" for line in LOGS[name](600)))
    assert (found.kind, found.masks, found.sampled_lines) == ("log", masks, 600)
    assert found.lines[masks[0]] == 600
    assert set(masks) <= set(found.matches)


def test_what_recurs_carries_information_and_stays() -> None:
    found = recognized("\n".join(access_log(600)))
    line = next(access_log(1)).replace(" 304 ", " 200 ")
    assert ' HTTP/1.1" 200 ⓛ' in Masks(found.masks).apply(line).text


def test_most_lines_but_not_all_of_a_log_need_a_timestamp() -> None:
    traced = "".join(f"{line}\n  at module.function\n  at main\n" * (i % 4 == 0) + line + "\n"
                     for i, line in enumerate(syslog(400)))  # fmt: skip
    assert recognized(traced).masks == ("timestamp", "ip", "long_numbers")


def test_a_date_that_has_not_changed_yet_is_masked() -> None:
    days = "".join(f"2023-12-10 {line.split(': ', 1)[1]}\n" for line in syslog(300))
    assert recognized(days).masks[0] == "timestamp"


def test_a_day_before_a_clock_is_masked_with_it() -> None:
    lines = [line.removeprefix("Dec 10 ") for line in syslog(300)]
    found = recognized("".join(f"I1210 {line}\n" for line in lines))
    assert Masks(found.masks).apply(f"I1211 {lines[0]}").text.startswith("Iⓓ LabSZ sshd[ⓛ]: ")


def test_few_lines_tell_nothing() -> None:
    assert recognized("\n".join(syslog(40))).kind == "text"
    assert recognized("") == Recognized("text", 0)


@pytest.mark.parametrize(
    "file", ["tinyshakespeare.txt", "nietzsche.txt", "lua_c.txt", "names.txt", "chinese_poems.txt"]
)
def test_prose_and_names_are_never_masked(file: str) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not here")
    assert recognized((DATA / file).read_text("utf-8"), piece=1 << 20).masks == ()


def test_request_parameters_are_no_log() -> None:
    file = DATA / "http_params_labelled.tsv"
    if not file.exists():
        pytest.skip("the requests are not here")
    text = "".join(row.split("\t", 2)[2] for row in file.read_text().splitlines(keepends=True))
    assert recognized(text).kind == "text"


def test_code_and_documents_are_never_masked() -> None:
    packages = ("app", "clients", "docs", "models", "tests", "worker")
    kinds = ("*.md", "*.py", "*.js")
    files = [file for package in packages for kind in kinds for file in (ROOT / package).rglob(kind)]
    found = {f: recognized(f.read_text("utf-8")).masks for f in [*files, *ROOT.glob("*.md")]}
    assert len(found) > 100
    assert {f: masks for f, masks in found.items() if masks} == {}


def test_a_table_with_years_is_no_log() -> None:
    table = "".join(f"{i % 7} works of {1900 + i * 37 % 90}, edition {i % 4}\n" for i in range(400))
    assert recognized(table).kind == "text"


def test_a_sample_is_bounded_spread_over_the_text_and_the_same_however_it_is_cut() -> None:
    text = "".join(f"line {i}\n\n" for i in range(100_000))
    whole, cut = LineSample(), LineSample()
    whole.feed(text)
    for start in range(0, len(text), 997):
        cut.feed(text[start : start + 997])
    assert whole.lines() == cut.lines()
    numbers = [int(line.split()[1]) for line in whole.lines()]
    assert numbers == sorted(numbers)
    assert 300 < len(numbers) < 2000 and numbers[-1] > 90_000
    assert sum(number < 50_000 for number in numbers) == pytest.approx(len(numbers) / 2, rel=0.2)


def test_an_endless_line_is_kept_in_part() -> None:
    sample = LineSample()
    for _ in range(100):
        sample.feed("x" * 10_000)
    assert [len(line) for line in sample.lines()] == [2000]


def test_the_example_says_where_each_mask_matches() -> None:
    found = recognized("\n".join(syslog(300)))
    for name, spans in found.matches.items():
        assert name in CLASSES
        masked = Masks([name]).apply(found.example).text
        assert len(masked) == len(found.example) - sum(end - start - 1 for start, end in spans)
