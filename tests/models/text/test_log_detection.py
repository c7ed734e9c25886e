import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nextchar.models.text.log_detection import LineSample, LogDetection, detect_log
from nextchar.models.text.masks import Masks
from tests.logs import LOGS, MULTILINE_LOGS, access_log, syslog

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"


def detected(text: str, *, piece: int = 10_000) -> LogDetection:
    sample = LineSample()
    for start in range(0, len(text), piece):
        sample.feed(text[start : start + piece])
    return detect_log(sample.lines())


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        ("syslog", ("timestamp", "ip", "long_numbers")),
        ("access_log", ("date", "long_numbers")),
        ("json_log", ("timestamp", "uuid")),
        ("counting_log", ("uptime", "digits")),
    ],
)
def test_masks_are_suggested_for_values_that_change(name: str, masks: tuple[str, ...]) -> None:
    detection = detected("".join(line + "\n" for line in LOGS[name](600)))
    assert (detection.kind, detection.masks, detection.sampled_lines) == ("log", masks, 600)
    assert detection.lines[masks[0]] == 600
    assert set(masks) <= set(detection.matches)


@pytest.mark.parametrize("value", ["7", "db.eu.example.com"])
def test_of_a_line_with_many_values_the_first_ones_are_examined(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    count, found = 0, Masks._found

    def counted(masks: Masks, text: str, **options: bool) -> Iterator[Any]:
        nonlocal count
        for match in found(masks, text, **options):
            count += 1
            assert count < 1_000_000
            yield match

    monkeypatch.setattr(Masks, "_found", counted)
    lines = (f"2026-11-28 10:{i // 60 % 60:02}:{i % 60:02} {i} {f'{value} ' * 2000}" for i in range(768))
    detection = detected("\n".join(lines))
    assert (detection.kind, detection.sampled_lines) == ("log", 768)
    assert "timestamp" in detection.masks


def test_recurring_values_are_not_masked() -> None:
    detection = detected("\n".join(access_log(600)))
    line = next(access_log(1)).replace(" 304 ", " 200 ")
    assert ' HTTP/1.1" 200 ⓛ' in Masks(detection.masks).apply(line).text


def test_a_log_may_have_lines_without_a_timestamp() -> None:
    traced = "".join(f"{line}\n  at module.function\n  at main\n" * (i % 4 == 0) + line + "\n"
                     for i, line in enumerate(syslog(400)))  # fmt: skip
    assert detected(traced).masks == ("timestamp", "ip", "long_numbers")


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        ("gc_log", {"timestamp", "long_numbers"}),
        ("java_log", {"timestamp"}),
        ("python_log", {"timestamp"}),
        ("sql_log", {"hex"}),
        ("uptime_log", {"digits"}),
    ],
)
def test_masks_are_suggested_where_events_have_several_lines(name: str, masks: set[str]) -> None:
    lines = list(MULTILINE_LOGS[name](1200))
    detection = detected("\n".join(lines))
    assert detection.kind == "log" and masks <= set(detection.masks)
    if name == "gc_log":  # also in the lines without a timestamp
        assert Masks(detection.masks).apply(lines[-4]).text.startswith("      [GC Worker Start (ms):  ⓛ.")


def test_a_counter_among_constants_is_masked() -> None:
    times = [line[:15] for line in syslog(600)]
    lines = [f"{time} read {4000 + 3 * i} of 65536, 1024, 4096" for i, time in enumerate(times)]
    assert detected("\n".join(lines)).masks == ("timestamp", "long_numbers")
    lines = [f"{time} read {4000 + i * 37 % 11} of 65536, 1024, 4096" for i, time in enumerate(times)]
    assert detected("\n".join(lines)).masks == ("timestamp",)


def test_a_date_that_is_constant_in_the_text_is_masked() -> None:
    days = "".join(f"2023-12-10 {line.split(': ', 1)[1]}\n" for line in syslog(300))
    assert detected(days).masks[0] == "timestamp"


def test_digits_of_a_date_before_the_time_are_masked_with_it() -> None:
    lines = [line.removeprefix("Dec 10 ") for line in syslog(300)]
    detection = detected("".join(f"I1210 {line}\n" for line in lines))
    assert Masks(detection.masks).apply(f"I1211 {lines[0]}").text.startswith("Iⓓ LabSZ sshd[ⓛ]: ")


def test_hostnames_that_change_are_masked_and_package_names_are_not() -> None:
    lines = [
        f"{line} from h{i // 9}.dial-{i % 3}.example.net by org.apache.hadoop.mapred.Task"
        for i, line in enumerate(syslog(400))
    ]
    detection = detected("\n".join(lines))
    assert "hostname" in detection.masks
    assert Masks(detection.masks).apply(lines[0]).text.endswith(" from ⓢ by org.apache.hadoop.mapred.Task")


def test_random_ids_of_letters_and_digits_are_masked() -> None:
    draw = random.Random(2)
    lines = [
        f"{line} request={''.join(draw.choices('abc123xyz789', k=10))}q1w of stage{i % 3}"
        for i, line in enumerate(syslog(400))
    ]
    detection = detected("\n".join(lines))
    assert "alphanumeric" in detection.masks
    assert Masks(detection.masks).apply(lines[0]).text.endswith(" request=ⓐ of stage0")


def test_hashes_are_masked_as_a_whole_where_digits_are_masked() -> None:
    lines = [
        f"{i * 0.173:12.6f} session 0x{0x14F1724A6E8000 + i // 40:x} of task {i}, {i % 7}" for i in range(600)
    ]
    detection = detected("\n".join(lines))
    assert {"hex", "digits"} <= set(detection.masks)
    assert " session ⓗ of task " in Masks(detection.masks).apply(lines[-1]).text


@pytest.mark.parametrize("prefix", ["Mar 22 18:32:38 host kernel: ", ""])
def test_the_uptime_of_a_kernel_that_starts_again_is_masked_and_its_other_numbers_are_not(
    prefix: str,
) -> None:
    draw, lines = random.Random(3), []
    for _ in range(6):
        uptime_s = 0.0
        for cpu in range(100):
            lines.append(f"{prefix}[{uptime_s:12.6f}] cpu {cpu % 8} of 8 is ready, 4096 pages")
            uptime_s += draw.expovariate(3)
    detection = detected("\n".join(lines))
    assert (detection.kind, detection.masks) == ("log", ("uptime", "timestamp")[: 1 + bool(prefix)])


def test_a_date_and_time_of_digits_only_are_masked_beyond_midnight() -> None:
    lines = [
        f"{81109 + i // 200:06} {i % 200 // 9:02}{i % 60:02}{i * 7 % 60:02} INFO read {i % 5}"
        for i in range(900)
    ]
    detection = detected("\n".join(lines))
    assert (detection.kind, detection.masks) == ("log", ("compact_time",))


def test_the_time_in_a_game_is_masked_and_the_time_in_a_transcript_is_not() -> None:
    draw = random.Random(5)
    times = [f"{i % 60 // 4:3}:{i % 4 * 15:02} " for i in range(600)]
    game = [f"{time}Item: {draw.randrange(8)} {draw.choice(('shotgun', 'armor'))}" for time in times]
    assert (detected("\n".join(game)).kind, detected("\n".join(game)).masks) == ("log", ("elapsed",))
    words = [f"{a}{b}" for a in ("ba", "lo", "mi", "tu") for b in ("gen", "ra", "sel", "von")]
    spoken = [time + " ".join(draw.choices(words, k=7)) for time in times]
    assert detected("\n".join(spoken)).kind == "text"


def test_a_log_may_begin_with_a_file_and_its_counter_may_begin_again_sometimes() -> None:
    draw = random.Random(6)
    file = [f"[section {draw.random()}]" for _ in range(150)]
    states = [f"Stats {i % 200 + draw.random():.1f}: sent={i * 37 + i % 5} lost={i % 3}" for i in range(600)]
    detection = detected("\n".join(file + states))
    assert (detection.kind, "long_numbers" in detection.masks) == ("log", True)
    often = [f"Stats {i % 50}.5: sent={i % 50 * 37} lost={i % 3}" for i in range(600)]
    assert detected("\n".join(file + often)).kind == "text"


def test_hardware_addresses_that_change_are_masked_as_a_whole() -> None:
    draw = random.Random(4)
    macs = [":".join(f"{draw.randrange(100):02}" for _ in range(14)) for _ in range(600)]
    lines = [f"{line} MAC={mac} PROTO=TCP" for line, mac in zip(syslog(600), macs, strict=True)]
    detection = detected("\n".join(lines))
    assert "mac" in detection.masks
    assert Masks(detection.masks).apply(lines[-1]).text.endswith(" MAC=ⓜ PROTO=TCP")


@pytest.mark.parametrize(
    "file", ["tinyshakespeare.txt", "nietzsche.txt", "lua_c.txt", "names.txt", "chinese_poems.txt"]
)
def test_prose_and_names_are_never_masked(file: str) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not beside the repository")
    assert detected((DATA / file).read_text("utf-8"), piece=1 << 20).masks == ()


def test_request_parameters_are_not_a_log() -> None:
    file = DATA / "http_params_labelled.tsv"
    if not file.exists():
        pytest.skip("the requests are not beside the repository")
    text = "".join(row.split("\t", 2)[2] for row in file.read_text().splitlines(keepends=True))
    assert detected(text).kind == "text"


def test_code_and_documents_are_never_masked() -> None:
    packages = ("clients", "docs", "models")
    kinds = ("*.md", "*.py", "*.js")
    files = [file for package in packages for kind in kinds for file in (ROOT / package).rglob(kind)]
    suggested = {f: detected(f.read_text("utf-8")).masks for f in [*files, *ROOT.glob("*.md")]}
    assert len(suggested) > 100
    assert {f: masks for f, masks in suggested.items() if masks} == {}


def test_a_table_with_years_is_not_a_log() -> None:
    table = "".join(f"{i % 7} works of {1900 + i * 37 % 90}, edition {i % 4}\n" for i in range(400))
    assert detected(table).kind == "text"


def test_a_sample_is_bounded_evenly_spread_and_independent_of_the_pieces() -> None:
    text = "".join(f"line {i}\n\n" for i in range(100_000))
    whole, in_pieces = LineSample(), LineSample()
    whole.feed(text)
    for start in range(0, len(text), 997):
        in_pieces.feed(text[start : start + 997])
    assert whole.lines() == in_pieces.lines()
    numbers = [int(line.split()[1]) for line in whole.lines()]
    assert numbers == sorted(numbers)
    assert 300 < len(numbers) < 2000 and numbers[-1] > 90_000
    assert sum(number < 50_000 for number in numbers) == pytest.approx(len(numbers) / 2, rel=0.2)


def test_dates_whose_hours_are_padded_at_night_have_a_mask_that_matches_these() -> None:
    lines = [f"230311 {10 + i // 60}:{i % 60:02}:00 [Warning] Aborted connection {i}" for i in range(600)]
    masks = Masks(detect_log(lines).masks)
    assert masks.masks[0] == "padded_time"
    assert masks.replace("230312  1:20:00 [Warning] x") == "ⓟ [Warning] x"


def test_durations_between_slashes_are_no_dates() -> None:
    lines = [
        f"Feb  6 12:{i // 60:02}:{i % 60:02} lb haproxy: [06/Feb/2024:12:{i // 60:02}:{i % 60:02}.655] s1"
        f" {i % 7}/0/{i % 3}/{i % 97}/{i % 90 + 10} 200"
        for i in range(600)
    ]
    detection = detect_log(lines)
    assert detection.masks[:2] == ("timestamp", "calendar_date")
    assert detection.matches["calendar_date"]
