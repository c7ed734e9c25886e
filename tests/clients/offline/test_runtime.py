"""The runtime without a server chooses what the service chooses, and refuses files that are damaged."""

import json
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nextchar.cli.models import cost_of_limit
from nextchar.local import Model
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer
from nextchar.models.anomaly.line_scores import ScoreOptions, StoredCalibration
from nextchar.models.errors import InvalidInput
from nextchar.models.loaded_model import LoadedModel, masks_of
from nextchar.models.pack import pack
from nextchar.models.pack_lines import ranks
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.requests import CompletionRequest
from nextchar.models.saved_model import SavedModel, describe_files
from nextchar.models.text.line_file import FILE as LINES_FILE
from nextchar.models.text.line_file import Lines
from nextchar.models.text.mask_values import FILE, MaskValues
from nextchar.models.text.masks import NAMED, Masks
from tests.clients.offline import models
from tests.clients.offline.models import KINDS, Kind, calibration_of, log_lines, saved, text_of
from tests.clients.offline.packed import SOURCE, Packed, build, has_wasm_compiler

OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 1.0, "max_characters": 90},
    {"until": "word"},
    {"until": "line", "temperature": 0.8},
    {"until": "confidence", "confidence_bits": 3.0},
    {"stop": ("e c", "t"), "temperature": 1.2},
    {"stop": ("aa", "aab", "ab")},
    {"top_k": 3},
    {"top_p": 0.8, "temperature": 1.5},
    {"min_p": 0.05, "top_p": 0.95},
]


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, Model, Packed]]:
    """The name of a model, the service's runtime of it, and ours."""
    model = Model(saved(request.param), threads=1)
    yield request.param, model, Packed(pack(saved(request.param)))
    model.close()


def prompts(name: str, count: int) -> Iterator[str]:
    """Yield prompts of all lengths, some with characters that the model does not know."""
    random, text = np.random.default_rng(1), text_of(KINDS[name])
    yield ""
    yield "\n"
    yield "Ω€😀 the"
    for at in random.integers(len(text) - 300, size=count):
        yield text[at : at + random.integers(1, 300)]


def complete(model: Model, prompt: str, **options: Any) -> tuple[str, str, float]:
    """Return a completion by the service's runtime, why it ended, and its bits."""
    prompt = model.loaded.masks.mask_lines(prompt)
    [[one]] = model._completions([CompletionRequest(prompt=prompt, stream=False, **options)])
    return one.text, one.reason, one.bits


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_seed_gives_the_same_text(pair: tuple[str, Model, Packed], options: dict[str, Any]) -> None:
    name, model, packed = pair
    vocabulary = saved(name).vocabulary
    encoding = "latin-1" if vocabulary.alphabet == "bytes" else "utf-8"
    for seed, prompt in enumerate(prompts(name, 12)):
        wanted, reason, bits = complete(model, vocabulary.to_characters(prompt), seed=seed, **options)
        found, found_reason, found_bits = packed.complete(prompt, seed=seed, **options)
        assert (found.decode(encoding), found_reason) == (wanted, reason), (prompt, seed)
        assert found_bits == pytest.approx(bits, abs=2e-3)


def test_tables_in_the_file_are_those_that_are_made(pair: tuple[str, Model, Packed]) -> None:
    name, _, packed = pair
    other = Packed(pack(saved(name), with_tables=True))
    for seed, prompt in enumerate(prompts(name, 12)):
        assert other.complete(prompt, seed=seed) == packed.complete(prompt, seed=seed)


@pytest.mark.parametrize(
    ("characters", "words", "count", "slots_bits"),
    [
        (
            900,
            500,
            2_000,
            10,
        ),  # more pairs of characters than the runtime has places for, of which some share one
        (20, 9_000, 40_000, 17),  # more parts than the runtime has lists
    ],
)
def test_tables_of_a_text_are_those_in_the_file(
    characters: int, words: int, count: int, slots_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    all_words = ["".join(map(chr, 0x4E00 + random.integers(characters, size=4))) for _ in range(words)]
    text = " ".join(all_words[i] for i in random.integers(words, size=count))
    monkeypatch.setitem(KINDS, f"{characters} characters", Kind(1, 4))
    monkeypatch.setattr(models, "text_of", lambda _: text)
    model = saved(f"{characters} characters")
    file, tables = (pack(model, with_tables=with_tables) for with_tables in (False, True))
    made, at = np.frombuffer(Packed(file).tables(), np.uint32), 8
    sections = int.from_bytes(tables[12:16], "little")
    pairs = []
    for kind, _, start, size in struct.iter_unpack("<IIQQ", tables[32 : 32 + 24 * sections]):
        if kind not in (17, 18, 19, 20):  # POSITIONS to ENTRIES
            continue
        pairs.append((np.frombuffer(tables, np.uint32, size // 4, start), made[at : at + size // 4]))
        at += -(-size // 16) * 4
    (positions, slots, singles, entries), others = zip(*pairs, strict=True)
    assert np.array_equal(positions, others[0]) and np.array_equal(singles, others[2])
    assert np.array_equal(slots > 0, others[1] > 0) and len(slots) >= 1 << slots_bits
    ends, other_ends = (np.flatnonzero(one >> 31) for one in (entries, others[3]))
    for slot, other in zip(slots[slots > 0].tolist(), others[1][slots > 0].tolist(), strict=True):
        assert followed(slot, entries, ends) == followed(other, others[3], other_ends)


def followed(slot: int, entries: NDArray[np.uint32], ends: NDArray[np.int64]) -> tuple[int, list[int]]:
    """Return the check of an element of SLOTS, and the entries that it says; `ends` are the last of each."""
    bits = len(entries).bit_length()
    place = slot % (1 << bits) - 1
    return slot >> bits, entries[place : ends[np.searchsorted(ends, place)] + 1].tolist()


def test_tables_that_are_kept_outside_of_the_file_are_those_that_are_made() -> None:
    data, other = pack(saved("text")), pack(saved("records"))
    made = Packed(data)
    tables = made.tables()
    opened = Packed(data, tables)
    assert opened.tables() == tables != b"" and Packed(pack(saved("text"), with_tables=True)).tables() == b""
    wanted = made.complete("the ", seed=1)
    cut, damaged = tables[:-16], tables[:5000] + bytes([tables[5000] ^ 1]) + tables[5001:]
    assert opened.complete("the ", seed=1) == wanted
    for unusable in (cut, damaged, Packed(other).tables(), b"x" * 10):
        packed = Packed(data, unusable)
        assert packed.tables() == tables and packed.complete("the ", seed=1) == wanted
    # Parts that prompts need are made before others, in another order.
    used = Packed(data)
    assert used.complete("the ", seed=1) == wanted and used.tables() != tables
    assert Packed(data, used.tables()).complete("the ", seed=1) == wanted
    # Those that are used are not made: entries without counts predict otherwise.
    entries = np.frombuffer(tables, np.uint32).copy()
    entries[8:] &= 0x8000FFFF
    assert Packed(data, with_checksum(entries.tobytes())).complete("the ", seed=1) != wanted


def with_checksum(tables: bytes) -> bytes:
    """Return tables with the checksum that they have, at bytes 16 to 23."""
    words = np.frombuffer(tables[32:], np.uint64)
    places = np.arange(32, len(tables), 8, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hashes = (words ^ places) * np.uint64(0xD1B54A32D192ED03)
    total = (hashes ^ (hashes >> np.uint64(32))).sum(dtype=np.uint64)
    return tables[:16] + total.tobytes() + tables[24:]


def test_what_was_read_before_changes_nothing(pair: tuple[str, Model, Packed]) -> None:
    name, _, packed = pair
    text = text_of(KINDS[name])[:300]
    for end in (1, 2, 3, 100, 101, 99, 163, 164, 300, 65, 129):
        kept = packed.complete(text[:end], seed=end)
        packed.forget()
        assert packed.complete(text[:end], seed=end) == kept


def test_the_distribution_is_that_of_the_service() -> None:
    packed, model = Packed(pack(saved("text"))), saved("text")
    found = packed.next("the cat ", top=3)
    with Model(model, threads=1) as service:
        wanted = service.next("the cat ", top=3)
    for one, (character, probability) in zip(found["candidates"], wanted, strict=True):
        assert one["character"] == character
        assert one["probability"] == pytest.approx(probability, abs=0.02)  # the service's is of float32


@pytest.mark.parametrize(("name", "weight"), [("records", 0.5), ("records", 0.0), ("fields", 0.5)])
def test_suggestions_are_those_of_the_service(name: str, weight: float) -> None:
    files = {file: saved(name).file(file) for file in saved(name).card.files}
    files[LINES_FILE] = Lines.load(files[LINES_FILE]).with_weight(weight).dump()
    card = saved(name).card.model_copy(update={"files": describe_files(files)})
    model = SavedModel(card, files.__getitem__)
    random, packed = np.random.default_rng(0), Packed(pack(model))
    lines = [line for line in text_of(KINDS[name]).splitlines() if line.strip()]
    asked: list[tuple[str, dict[str, Any]]] = [
        (prefix, {})
        for prefix in ("", " ", "NAIVE", "naïve", "caf", "€", "日本", "sat", "hte", "cat (sat)", "x" * 20)
    ]
    for line in random.choice(lines, 80).tolist():
        context, _, typed = line.rpartition("\t")
        typed = " " * int(random.integers(2)) + typed[: int(random.integers(len(typed) + 1))]
        for _ in range(random.integers(3)):
            at = int(random.integers(len(typed) + 1))
            typed = (
                typed[:at]
                + str(random.choice(["q", "", "é", " ", "T"]))
                + typed[at + int(random.integers(2)) :]
            )
        options: dict[str, Any] = {
            "limit": int(random.integers(1, 20)),
            "typos": [None, 0, 1, 2][random.integers(4)],
        }
        if name == "fields":
            options["context"] = str(random.choice([context, context.upper(), "other", ""]))
        if random.integers(2):
            options["exclude"] = [
                line.rpartition("\t")[2].upper() for line in random.choice(lines, 5).tolist()
            ]
        asked.append((typed, options))
    with Model(model, threads=1) as service:
        for prefix, options in asked:
            wanted = service.suggest(prefix, **options)
            found = packed.suggest(prefix, **options)
            assert [one["text"] for one in found] == [one.text for one in wanted], (prefix, options)
            assert [one["count"] for one in found] == [one.count for one in wanted]
            ranges = [one.replaced and asdict(one.replaced) for one in wanted]
            assert [one["replaced"] for one in found] == ranges, (prefix, options)
            probabilities = [one.probability for one in wanted]
            assert [one["probability"] for one in found] == pytest.approx(probabilities, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("prefix", "options", "message"),
    [
        ("x" * 1001, {}, "prefix has more than 1000"),
        ("x", {"context": "x" * 1001}, "context has more than 1000"),
        ("x", {"limit": 51}, "limit must be from 1 to 50"),
        ("x", {"typos": 3}, "typos must be from 0 to 2"),
    ],
)
def test_suggestions_that_cannot_be_made_are_refused(
    prefix: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Packed(pack(saved("records"))).suggest(prefix, **options)


def test_a_model_without_lines_suggests_nothing() -> None:
    with pytest.raises(ValueError, match="no lines"):
        Packed(pack(saved("text"))).suggest("the")


def test_a_line_has_the_bits_of_the_int8_network() -> None:
    packed, engine = Packed(pack(saved("records"))), Engine(saved("records"))
    for line in ("the cat sat", "tat eh cas", "", "Ω"):
        [one] = engine.line_surprisal([line], fast=True)
        found = packed.score(line)
        assert found["total_bits"] == pytest.approx(float(one.bits.sum()), abs=1e-3)
        assert found["characters"] == len(line) and found["score"] is found["anomalous"] is None
    engine.close()


@pytest.mark.parametrize("false_alarms", [None, 0.1])
def test_lines_have_the_scores_of_the_service(false_alarms: float | None) -> None:
    packed = Packed(pack(saved("log"), calibration=calibration_of("log")))
    stored = StoredCalibration("validation", calibration_of("log"), 0, "")
    options = ScoreOptions(fast=True, explain=False, false_alarms=false_alarms)
    scorer = CalibratedScorer(LoadedModel.load(saved("log")), stored, options)
    random, lines = np.random.default_rng(0), log_lines(200, seed=1)
    for line in random.choice(lines, 100).tolist():
        at = random.integers(len(line), size=3)
        changed = line
        for place, text in zip(
            at.tolist(), random.choice(["9", "", "Ж", " ", "=", "ⓛ", "日本", "\t"], 3), strict=True
        ):
            changed = changed[:place] + str(text) + changed[place + 1 :]
        lines.append(changed)
    lines += [
        "",
        " ",
        "disk 1 is 9999999999% full",
        "cron[1]: (root) CMD",
        "x" * 200,
        "a=b " * 100,
        "user=zoë 0x1F",
    ]
    read = scorer.read(lines)
    flags = []
    for line, reading, wanted in zip(lines, read, scorer.scores(read), strict=True):
        found = packed.score(line, false_alarms=false_alarms or 0.0)
        flags.append(found["anomalous"])
        assert (found["anomalous"], found["characters"]) == (wanted.anomalous, wanted.characters), line
        assert reading.surprisal.parsed is not None
        assert found["known_template"] != reading.surprisal.parsed.template.is_new
        for name, error in (
            ("score", 2e-3),
            ("total_bits", 5e-3),
            ("bits_per_character", 1e-3),
            ("peak_bits", 1e-3),
        ):
            assert found[name] == pytest.approx(getattr(wanted, name), abs=error), (line, name)
        assert found["p_value"] == pytest.approx(wanted.p_value, rel=2e-3)
    assert 20 < sum(flags) < len(flags) - 20


def test_thinned_ranks_are_off_by_half_a_percent_at_most() -> None:
    lines = np.sort(np.random.default_rng(0).normal(size=50_000).round(4).astype(np.float32))
    values, counts = ranks(lines)
    assert len(values) < 3_000
    for own in np.linspace(-5, 5, 2_001):
        wanted = len(lines) - int(lines.searchsorted(own))
        at = int(values.searchsorted(own))
        found = int(counts[at]) if at < len(counts) else 0
        assert wanted * 0.995 - 1 < found <= wanted
    exact, _ = ranks(np.arange(150))
    assert len(exact) == 150


def test_a_rate_that_the_calibration_does_not_allow_is_refused() -> None:
    packed = Packed(pack(saved("log"), calibration=calibration_of("log")))
    with pytest.raises(ValueError, match="false_alarms: the calibration has too few lines"):
        packed.score("disk 1 is 5% full", false_alarms=1e-6)
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="false_alarms must be at least 0 and below 1"):
            packed.score("disk 1 is 5% full", false_alarms=wrong)
    assert packed.score("a line\nand another")["score"] is None


def test_what_the_model_is() -> None:
    assert Packed(pack(saved("records"))).info() == {
        "name": "records",
        "kind": "records",
        "alphabet": "characters",
        "layers": 1,
        "units": 16,
        "characters": len(saved("records").vocabulary) - 1,
        "known_characters": len(text_of(KINDS["records"])),
        "masked": False,
        "calibrated": False,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be from 0 to 10"),
        ({"temperature": float("nan")}, "temperature must be from 0 to 10"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"min_p": 2.0}, "min_p must be from 0 to 1"),
        ({"max_characters": 0}, "max_characters must be at least 1"),
        ({"stop": ["x"] * 17}, "more than 16 stop strings"),
        ({"stop": ["x" * 201]}, "more than 200 characters"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Packed(pack(saved("records"))).complete("the", **options)


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80\xff", b"\xf4\x90\x80\x80", b"\xc0\x80"])
def test_a_prompt_that_is_no_utf8_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        Packed(pack(saved("text"))).complete(text)


def test_a_damaged_file_is_refused() -> None:
    data = pack(saved("records"))
    with pytest.raises(ValueError, match="no packed model"):
        Packed(b"")
    with pytest.raises(ValueError, match="no packed model"):
        Packed(b"x" * 64)
    with pytest.raises(ValueError, match="cut off"):
        Packed(data[: len(data) // 16 * 8])
    with pytest.raises(ValueError, match="another version"):
        Packed(data[:8] + b"\x01" + data[9:])
    old = Packed(data[:4] + (1).to_bytes(4, "little") + data[8:])  # without masks and scores
    assert old.complete("the", seed=1) == Packed(data).complete("the", seed=1)
    for at in range(32, len(data), 997):
        with pytest.raises(ValueError, match="checksum"):
            Packed(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_a_limit_leaves_out_the_beginning_of_the_text() -> None:
    model = saved("text")
    for with_tables, slack in ((False, 24), (True, 4_000)):
        size = len(pack(model, with_tables=with_tables))
        for limit in (size - 1, size - 3_000):
            limited = pack(model, limit_bytes=limit, with_tables=with_tables)
            assert limit - slack < len(limited) <= limit
            assert Packed(limited).info()["known_characters"] < len(text_of(KINDS["text"]))
    known, of, bits = cost_of_limit(pack(model, limit_bytes=len(pack(model)) - 4_000))
    assert known < of == len(text_of(KINDS["text"])) and 0 < bits < 5
    assert cost_of_limit(pack(model, limit_bytes=1 << 30)) == (of, of, 0.0)
    with pytest.raises(InvalidInput, match="without known text"):
        pack(model, limit_bytes=1_000)


@pytest.mark.parametrize(
    "arguments", [("complete",), ("complete", "FILE", "a", "--sed", "1"), ("complete", "FILE", "a", "b")]
)
def test_wrong_usage_of_the_command_is_refused(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


def test_the_command_completes_without_python(tmp_path: Path) -> None:
    file = tmp_path / "a.nextchar"
    file.write_bytes(pack(saved("text"), with_tables=True))
    wanted = Packed(file.read_bytes()).complete("the ", seed=5, temperature=0.8, stop=("e",))[0].decode()
    said = run("complete", str(file), "the ", "--seed", "5", "--temperature", "0.8", "--stop", "e")
    assert (said.stdout, said.stderr) == (wanted + "\n", "")
    assert json.loads(run("info", str(file)).stdout)["name"] == "text"
    assert len(json.loads(run("next", str(file), "the", "--top", "3").stdout)["candidates"]) == 3
    scored = run("score", str(file), "--false-alarms", "0.1", text="the cat\n\n").stdout.splitlines()
    assert list(map(json.loads, scored)) == list(map(Packed(file.read_bytes()).score, ("the cat", "")))
    file.write_bytes(b"no model of this kind")
    assert "no packed model" in run("info", str(file)).stderr
    assert "No such file" in run("info", str(tmp_path / "none")).stderr


def run(*arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the command."""
    command = [build() / "nextchar-run", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_files_that_are_made_to_do_harm_do_none(tmp_path: Path) -> None:
    """Files with changed bytes and a checksum that fits are used with the compiler's sanitizers."""
    folder = tmp_path / "built"
    subprocess.run(["sh", SOURCE / "build.sh", folder, "fuzz"], check=True)
    files = []
    for name in KINDS:
        calibration = calibration_of(name) if name == "log" else None
        for with_tables in (False, True):
            files.append(tmp_path / f"{len(files)}.nextchar")
            files[-1].write_bytes(pack(saved(name), with_tables=with_tables, calibration=calibration))
    said = subprocess.run([folder / "fuzz", "1", "3", *files], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr[-3000:]
    assert int(said.stdout.split()[0]) > 5


@pytest.mark.parametrize(
    "masks",
    [tuple(NAMED)[:8], tuple(NAMED)[8:], KINDS["log"].masks, (r"x(?:.*y)?", "digits"), (r"\b|[^a-z]+?b",)],
)
@pytest.mark.parametrize("has_values", [False, True])
def test_values_are_masked_as_by_the_service(masks: tuple[str, ...], has_values: bool) -> None:
    lines, random = log_lines(400), np.random.default_rng(0)
    parts = [
        *(
            "2024-02-3",
            "0",
            "T10:61:12",
            ".123",
            "Z",
            "+0100",
            " ",
            ":",
            "/",
            "-",
            "0x1F",
            "deadbeef01234567",
            "x9y",
        ),
        *(
            "999.1.2.3",
            "fe80::1",
            "é",
            "日",
            "port ",
            "%",
            "12345678",
            "mär 12 10:11:12",
            "ſEP  3 01:02:03",
            "\n",
        ),
        *(
            "13/13/24",
            "Mon, 30 Jan 2024",
            "a.b.com",
            "12:30",
            ":05",
            "[ 1.25]",
            "081109 203615",
            "user=zoë",
            "00-1A",
        ),
    ]
    made = ["".join(random.choice(parts, random.integers(1, 12)).tolist()) for _ in range(1_500)]
    for line in random.choice(lines, 300).tolist():
        at = int(random.integers(len(line)))
        made.append(line[:at] + random.choice(["9", "", "a", "F", ":", "%"]) + line[at + 1 :])
    made += ["q " * 700 + "x 1 y" * 700, ("1 " * 500 + "x" * 200) * 60]
    values = {FILE: MaskValues.fit(Masks(masks), lines + made[:200]).dump()} if has_values else {}
    card, base = saved("text").card, saved("text")
    card = card.model_copy(update={"masks": masks, "files": card.files | describe_files(values)})
    model = SavedModel(card, lambda name: values[name] if name in values else base.file(name))
    packed, service = Packed(pack(model)), masks_of(model)
    for text in ("", "\n", *lines, *made):
        assert packed.mask(text) == service.mask_lines(text)
    assert service.mask_lines("\n".join(made[:50])) == packed.mask("\n".join(made[:50]))


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (r"\pL+", "only RE2 knows"),
        ("[[:alpha:]]+", "it has one of"),
        ("(?i)straße", "letters beyond ASCII"),
        ("((a{100}){100}){3}", "repetitions are too large"),
    ],
)
def test_an_expression_that_cannot_be_packed_is_named(mask: str, why: str) -> None:
    model = saved("text")
    masked = SavedModel(model.card.model_copy(update={"masks": (mask,)}), model.file)
    with pytest.raises(InvalidInput, match=why) as refused:
        pack(masked)
    assert refused.value.code == "mask_not_packed"


@pytest.mark.skipif(not has_wasm_compiler, reason="clang-14 is not installed")
def test_the_webassembly_in_the_repository_is_what_its_source_makes() -> None:
    assert (SOURCE / "nextchar.wasm").read_bytes() == (build() / "nextchar.wasm").read_bytes(), (
        "run clients/offline/build.sh, and copy build/nextchar.wasm"
    )
