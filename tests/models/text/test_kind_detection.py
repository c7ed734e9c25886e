import argparse
import csv
import html.entities
import inspect
import json
import keyword
import random
import statistics
import sys
import textwrap
import unicodedata
import zoneinfo
from datetime import date, timedelta
from itertools import accumulate
from pathlib import Path

import pytest

from nextchar.models.text.kind_detection import KindDetection, detect_kind
from nextchar.models.text.log_detection import LineSample
from tests.logs import LOGS, MULTILINE_LOGS, SERVER_LOGS, server_log, syslog

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"
ZONES = sorted(zoneinfo.available_timezones())

SENTENCES = [
    "i do not know what you mean by that",
    "the door is open and the light is on",
    "we can go to the shop in an hour",
    "he said that he was not to be had",
]


def detected(text: str, *, piece: int = 10_000) -> KindDetection:
    sample = LineSample()
    for start in range(0, len(text), piece):
        sample.feed(text[start : start + piece])
    return detect_kind(sample)


def shuffled(lines: list[str]) -> list[str]:
    return random.Random(1).sample(lines, len(lines))


def words(count: int, *, letters: int = 6) -> list[str]:
    random_ = random.Random(2)
    return ["".join(random_.choices("abdeiklmnorstu", k=letters)) for _ in range(count)]


def readings(count: int) -> list[float]:
    """Return measurements, each of which is close to the one before."""
    random_ = random.Random(5)
    return list(accumulate(random_.gauss(0, 1) for _ in range(count)))


def rows(count: int) -> list[str]:
    """Return connections in no order, which are mostly numbers."""
    random_ = random.Random(6)
    services = [("tcp,http", 200, 9000), ("tcp,smtp", 900, 330), ("udp,domain", 45, 80), ("icmp,echo", 30, 0)]
    chosen = random_.choices(services, (6, 2, 3, 1), k=count)
    return [
        f"0,{name},SF,{int(sent * random_.uniform(0.5, 2))},{int(got * random_.uniform(0.5, 2))},0,0,"
        f"{random_.randrange(40)},{random_.random():.2f}"
        for name, sent, got in chosen
    ]


def traces(count: int) -> list[str]:
    """Return sequences of system calls; those of one program stand together."""
    random_ = random.Random(7)
    programs = [random_.sample(range(1, 340), 12) for _ in range(6)]
    lengths = [random_.randrange(10, 90) for _ in range(count)]
    return [" ".join(map(str, random_.choices(programs[i * 6 // count], k=n))) for i, n in enumerate(lengths)]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(keyword.kwlist, id="keywords"),
        pytest.param(ZONES, id="time zones"),
        pytest.param(shuffled(ZONES), id="time zones in random order"),
        pytest.param(shuffled([z.rpartition("/")[2].replace("_", " ") for z in ZONES]), id="cities"),
        pytest.param(sorted(html.entities.html5), id="entities, which end like code"),
        pytest.param(sorted(sys.stdlib_module_names), id="modules"),
        pytest.param([f"{word}.{end}" for word in words(200) for end in ("com", "org")], id="domains"),
        pytest.param([f"id={i * 7919 % 1000}&q={w}" for i, w in enumerate(words(300))], id="queries"),
        pytest.param([f"{w.title()} Street, {w[::-1].title()}, Utah" for w in words(300)], id="addresses"),
        pytest.param([f"{random.Random(i).getrandbits(128):032x}" for i in range(300)], id="hashes"),
        pytest.param([f"GET /{a}/{b}.html HTTP/1.1" for a, b in zip(words(300), words(300, letters=4),
                     strict=True)], id="requests"),
        pytest.param([f"{a.title()} {b.title()}" for a, b in zip(words(300), shuffled(words(300, letters=5)),
                     strict=True)], id="names of two words"),
        pytest.param(sorted(f"{kind} {word} of the {side} {part}" for kind in ("acute", "chronic")
                     for word in words(9) for side in ("left", "right") for part in ("arm", "eye")),
                     id="sorted terms, which have the words of sentences"),
        pytest.param(random.Random(3).choices(words(60), range(60), k=400), id="words that repeat"),
        pytest.param(random.Random(3).choices(ZONES[:90], k=450), id="items that repeat"),
        pytest.param(rows(600), id="connections"),
        pytest.param(traces(300), id="sequences of calls"),
        pytest.param([unicodedata.name(chr(i), "RESERVED") for i in range(160, 2400)],
                     id="names of characters in their order"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_are_records(lines: list[str], end: str) -> None:
    for text in (end.join(lines), end.join(lines) + end):
        assert detected(text).kind == "records", detected(text).reason


def phrases(count: int) -> list[str]:
    """Return lines that are like sentences, each about something else."""
    random_ = random.Random(4)
    ends = [random_.choices(words(300, letters=7), k=2) for _ in range(count)]
    return [f"{random_.choice(SENTENCES)} {' and the '.join(end)}" for end in ends]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([f"{line}?" for line in phrases(900)], id="questions"),
        pytest.param(phrases(900), id="titles with the words of sentences"),
        pytest.param(shuffled(phrases(200) * 5), id="queries that repeat"),
        pytest.param([f"{'toys' if i % 3 else 'garden'}\t{p}" for i, p in enumerate(phrases(900))],
                     id="items behind their category"),
        pytest.param([f"{zone}\t{i * 7919 % 1000}" for i, zone in enumerate(ZONES)], id="with a count"),
    ],
)  # fmt: skip
def test_many_lines_that_have_nothing_to_do_with_their_neighbors_are_records(lines: list[str]) -> None:
    assert detected("\n".join(lines)).kind == "records", detected("\n".join(lines)).reason


def test_a_list_whose_lines_have_a_count_says_so() -> None:
    found = detected("\n".join(f"{zone}\t{i * 7919 % 1000}" for i, zone in enumerate(ZONES)))
    assert found.kind == "records"
    assert found.reason.startswith("each line ends with a count, and ")


@pytest.mark.parametrize("end", ["", "?"])
def test_many_sentences_that_follow_each_other_are_text(end: str) -> None:
    subjects = words(300, letters=7)
    lines = [f"{SENTENCES[i % 4]} {subjects[i // 9]} and the {subjects[i // 9 + 1]}{end}" for i in range(900)]
    assert detected("\n".join(lines)).kind == "text"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["To be or not to be,", "That is the question:", "Whether 'tis nobler"] * 8, "repeated"),
        ([f"{line} {word}," for line, word in zip(SENTENCES * 60, words(240), strict=True)], "clauses"),
        ([f"{line} {word}" for line, word in zip(SENTENCES * 60, words(240), strict=True)], "short words"),
        ([line for w in words(120) for line in (w, "")], "empty lines"),
        ([f"    {w} {w[::-1]}" for w in words(120)], "indented"),
        (inspect.getsource(textwrap).split()[:4000], "repeated"),
        (" ".join(inspect.getdoc(one) or "" for one in (argparse, csv, statistics)).split(), "repeated"),
        ([f"{reading:.2f}" for reading in readings(300)], "numbers"),
        ([f"temp={reading:.2f}" for reading in readings(300)], "numbers"),
        ([f"sensor {w},{i * 37 % 11},{reading:.0f}" for i, (w, reading) in enumerate(
            zip(words(300), readings(300), strict=True))], "table"),
        ([f"{w},{w[::-1]},{'north' if i % 3 else 'south'}" for i, w in enumerate(words(300))], "table"),
        ([f'{i},"{w}{", " * (i % 3)}{w[::-1]}",{w}' for i, w in enumerate(words(300))], "table"),
        ([json.dumps({"id": i, "name": w, "unit": w[3:]}) for i, w in enumerate(words(300))], "table"),
        ([f"week {i},{w}" for i, w in enumerate(words(40))], "increase"),
        (["".join(random.Random(i).choices("ACGT", k=60)) for i in range(300)], "same length"),
        ([f"{chr(0x4E00 + i * 101 % 300)}{chr(0x5E00 + i)}月明" for i in range(300)], "script"),
        ([f'{{"user":"{w}"}}' for w in words(300)], "structured"),
        ([f"{a} meets {b}" for a, b in zip([w for w in words(60) for _ in range(3)],
                                           words(180, letters=5), strict=True)], "in common"),
        (json.dumps([{"name": w, "id": i * 37 % 400, "genre": w[:2], "unit": w[3:]}
                     for i, w in enumerate(words(300))], indent=2).splitlines(), "fields"),
        ([line for w in words(200) for line in (f"Name: {w} {w[::-1]}", f"City: {w[:4]}")], "fields"),
        ([line for w in words(90) for line in (
            f'[Site "{w}"]', f'[White "{w[:3]}"]', f"1. {w[3:]} e5", "")], "fields"),
        ([line for i, w in enumerate(words(60)) for line in (
            f"package {w}", *phrases(60)[i % 3 * 20 : i % 3 * 20 + 20], "")], "empty lines"),
        ([line for i, w in enumerate(words(400)) for line in (
            f"dn: uid=u{i}", "class: one", f"cn: {w}", f"uid: u{i}", f"number: {1000 + i}", "")], "increase"),
        (["hello"] * 300, "repeated"),
        (["one line without an end"], "too few"),
        ([], "too few"),
    ],
)  # fmt: skip
def test_the_lines_of_other_texts_have_an_order(lines: list[str], reason: str) -> None:
    detection = detected("\n".join(lines))
    assert detection.kind == "text" and reason in detection.reason


def test_a_short_list_of_several_words_is_text_unless_sorted() -> None:
    names = [f"{a.title()} {b.title()}" for a, b in zip(words(60), words(60, letters=5), strict=True)]
    assert detected("\n".join(names)).kind == "text"
    assert detected("\n".join(sorted(names))).kind == "records"


def test_rows_in_order_of_time_are_never_records() -> None:
    days = [date(2024, 1, 1) + timedelta(days=i) for i in range(300)]
    for count in (30, 300):
        rows = [f"{day},{i * 7919 % 100}" for i, day in enumerate(days[:count])]
        assert detected("\n".join(["day,value", *rows])).kind in ("log", "text")


@pytest.mark.parametrize("name", LOGS)
def test_logs_are_logs(name: str) -> None:
    assert detected("\n".join(LOGS[name](300))).kind == "log"
    assert "timestamp" in detected("\n".join(syslog(300))).reason


@pytest.mark.parametrize("name", SERVER_LOGS)
def test_a_log_whose_later_half_is_traces_queries_or_objects_is_a_log(name: str) -> None:
    assert detected("\n".join(server_log(name, 3000))).kind == "log"


@pytest.mark.parametrize("name", MULTILINE_LOGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_logs_whose_events_have_several_lines_are_logs(name: str, end: str) -> None:
    assert detected(end.join(MULTILINE_LOGS[name](1200))).kind == "log"


def test_a_chat_with_times_is_text() -> None:
    names, said = ("Ann", "Bob", "+1 123 456 789"), shuffled([f"{a} {b} {c}" for a, b, c in zip(
        words(600), words(600, letters=3), words(600, letters=8), strict=True)])  # fmt: skip
    for time in ("[2019-06-13 {:02}:{:02}] ", "13/06/2019, {:02}:{:02} - ", "[13/06/2019, {:02}:{:02}:07] "):
        chat = [f"{time.format(i // 60, i % 60)}{names[i * 7 % 3]}: {said[i]}." for i in range(600)]
        assert detected("\n".join(chat)).kind == "text"


def test_a_transcript_with_times_is_text_and_a_log_of_phrases_a_log() -> None:
    for time in ("00:{:02}:{:02}", "{}:{:02}"):
        transcript = [f"{time.format(*divmod(i * 7, 60))} {line}" for i, line in enumerate(phrases(600))]
        assert detected("\n".join(transcript)).reason == "its lines are sentences, with timestamps"
    log = [f"{line.split(' ', 1)[0]} {SENTENCES[i % 4]} {i * 7919 % 90}" for i, line in enumerate(transcript)]
    assert detected("\n".join(log)).kind == "log"


def test_verses_in_order_of_their_numbers_are_not_sorted() -> None:
    for lines, reason in ((words(90), "not sorted"), (sorted(words(90)), "are sorted")):
        verses = [f"Gen {i // 30}:{i % 30:02} {w} {w[::-1]}" for i, w in enumerate(lines)]
        assert reason in detected("\n".join(verses)).reason


def test_statements_of_sql_are_code_although_their_keys_increase() -> None:
    rows = [f"INSERT INTO {w} VALUES ({1000 + i});" for i, w in enumerate(words(300))]  # noqa: S608
    assert detected("\n".join(rows)).kind == "code"
    values = [f"({i},'{w.title()}',{1000 + i * 7})," for i, w in enumerate(words(300))]
    assert detected("\n".join(["INSERT INTO cities VALUES", *values])).kind == "code"


def test_bullets_are_not_comments_of_code() -> None:
    changes = [line for w in words(100) for line in (f"Release {w}", f"  * Fixed {w[::-1]} at last", "")]
    assert detected("\n".join(changes)).kind == "text"


def test_shell_scripts_are_code() -> None:
    script = [line for w in words(60) for line in (f'if [ -z "{w}" ]; then', f"  {w}=1", "fi", "")]
    assert detected("\n".join(script)).kind == "code"


def test_lisp_is_code() -> None:
    functions = [line for w in words(40) for line in (f"(define ({w} items)", "  (let ((n (length items)))",
                 f"    (apply {w[::-1]} (cons n items))))", "", f";;; {w}")]  # fmt: skip
    assert detected("\n".join(functions)).kind == "code"


def test_markdown_and_stack_traces_are_not_code() -> None:
    links = [f"* [{w.title()}](https://example.org/{w}(1)) - {w[::-1]} and {w[:3]}." for w in words(200)]
    readme = [
        line for i, link in enumerate(links) for line in ([f"## {link[3:8]}", link] if i % 5 else [link])
    ]
    assert detected("\n".join(readme)).kind == "text"
    dump = [line for w in words(60) for line in (f'"{w}" id={len(w)} in WAITING', *(
        f"    at org.example.{w}.Task.run(Task.java:{i})" for i in range(5)))]  # fmt: skip
    assert detected("\n".join(dump)).kind == "text"


def test_source_code_is_code() -> None:
    for module in (textwrap, inspect, html.entities, random):
        assert detected(inspect.getsource(module)).kind == ("code" if module is not html.entities else "text")
    for file in ("app/console/files/base.css", "app/console/files/app.js", "app/console/files/index.html"):
        assert detected((ROOT / file).read_text()).kind == "code"


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("names.txt", "records"),
        ("tinyshakespeare.txt", "text"),
        ("nietzsche.txt", "text"),
        ("chinese_poems.txt", "text"),
        ("lua_c.txt", "code"),
        ("openssh_2k.log", "log"),
    ],
)
def test_real_texts(file: str, kind: str) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not beside the repository")
    text = (DATA / file).read_text("utf-8")
    assert detected(text, piece=1 << 20).kind == kind
    if file == "tinyshakespeare.txt":  # its verses alone, without a sign but their words
        verses = [line for line in text.split("\n") if line and not line.endswith(":")]
        plain = "".join(c for c in "\n".join(verses).lower() if c.isalpha() or c in " \n")
        assert detected(plain).kind == detected(plain[:10_000]).kind == "text"


def test_normal_request_parameters_are_records() -> None:
    file = DATA / "http_params_labelled.tsv"
    if not file.exists():
        pytest.skip("the requests are not beside the repository")
    rows = [row.split("\t", 2) for row in file.read_text().splitlines(keepends=True)]
    assert detected("".join(text for label, _, text in rows if label == "0")).kind == "records"


@pytest.mark.parametrize(
    "line",
    [
        "{0},{1},{2},{3}",
        "{4}\t{1} {2}\t{3}.5",
        "{0}. {1} {2} {1} {3}",
        "This is sentence number {0}, and it has {1} in it.",
        "Q{0}: what is {1}? See page {5}",
        '{{"id": {0}, "name": "{1}", "size": {3}}}',
        "{5} PRINT {1}",
    ],
)
def test_numbered_lines_are_no_log(line: str) -> None:
    random_ = random.Random(3)
    own = words(60)
    lines = [
        line.format(i, random_.choice(own), random_.choice(own), random_.randrange(90), 100_000 + i, 10 * i)
        for i in range(1, 3_000)
    ]
    assert detected("\n".join(lines)).kind == "text"


def test_unix_seconds_at_equal_steps_are_times() -> None:
    random_ = random.Random(3)
    lines = [f"{1_700_000_000 + 60 * i} cpu {random_.choice(words(20))} ok" for i in range(500)]
    assert detected("\n".join(lines)).kind == "log"
