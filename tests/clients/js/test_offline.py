"""A packed model in Node.js, by `nextchar/offline`: the service's texts, in the service's shapes."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nextchar.local import Model
from nextchar.models.pack import pack
from nextchar.models.runtime.requests import CompletionRequest
from tests.clients.js.node import FOLDER, node
from tests.clients.js.test_package import compressed_bytes, loaded_with
from tests.clients.offline.models import KINDS, calibration_of, saved, text_of
from tests.clients.offline.packed import Packed

ENTRY = """
import { load } from "./offline.js";
const [file, given] = process.argv.slice(1).map((text, i) => i ? JSON.parse(text) : text);
const codeOf = (promise) => promise.then(() => null, ({ name, code, message }) => [name, code, message]);
const print = (value) => console.log(JSON.stringify(value));
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The packed models of KINDS."""
    folder = tmp_path_factory.mktemp("packed")
    for name in KINDS:
        calibration = calibration_of(name) if name == "log" else None
        (folder / f"{name}.nextchar").write_bytes(pack(saved(name), calibration=calibration))
    return {name: folder / f"{name}.nextchar" for name in KINDS}


def run(script: str, file: Path, given: object = None) -> Any:
    """Return what a script of an ES module prints, with `file` and `given`."""
    arguments = ["--input-type=module", "-e", ENTRY + script, str(file), json.dumps(given)]
    return json.loads(node(*arguments, cwd=FOLDER))


@pytest.mark.parametrize("name", ["text", "records", "bytes"])
@pytest.mark.parametrize("worker", [True, False])
def test_the_same_seed_gives_the_services_text(files: dict[str, Path], name: str, worker: bool) -> None:
    text = text_of(KINDS[name])
    cases: list[dict[str, Any]] = [
        {"prompt": text[100:170], "max_characters": 30, "temperature": 0.7, "seed": 2**40 + 1},
        {"prompt": "\n" + text[:3000], "max_characters": 20, "seed": 3},  # which is read in parts
        {"prompt": text[5:45], "until": "line", "max_characters": 80, "seed": 4, "top_p": 0.9},
        {"prompt": text[200:210], "stop": ["e", "a "], "seed": 5},
    ]
    found = run(
        """const model = await load(file, { worker: given.worker }), answers = [];
        for (const { prompt, ...options } of given.cases) answers.push(await model.complete(prompt, options));
        print(answers)""",
        files[name],
        {"worker": worker, "cases": cases},
    )
    service = Model(saved(name), threads=1)
    for case, answer in zip(cases, found, strict=True):
        to_characters = saved(name).vocabulary.to_characters
        fields = case | {"stop": tuple(map(to_characters, case.get("stop", ())))}
        fields["prompt"] = service.loaded.masks.mask_lines(to_characters(case["prompt"]))
        [[one]] = service._completions([CompletionRequest(stream=False, **fields)])
        [choice] = answer["completions"]
        encoded = one.text.encode("latin-1").decode(errors="replace") if name == "bytes" else one.text
        assert (choice["text"], choice["finish_reason"]) == (encoded, one.reason)
        assert choice["bits"] == pytest.approx(one.bits, abs=1e-3)
    service.close()


def test_answers_have_the_shapes_of_the_services(files: dict[str, Path]) -> None:
    found = run(
        """const model = await load(file);
        const pieces = [], events = [];
        const options = { n: 2, max_characters: 5, seed: 1, logprobs: 0 };
        const onText = (...piece) => pieces.push(piece);
        const completion = await model.complete("the Ω", { ...options, onText });
        for await (const event of model.stream("the Ω", options)) events.push(event);
        print({ info: model.info, completion, pieces, events, next: await model.next("the ", { top: 2 }),
          score: await model.score("a mat"), scores: await model.score(["a mat", ""]) })""",
        files["text"],
    )
    completion = found["completion"]
    first, second = completion["completions"]
    assert completion | {"completions": []} == {
        "object": "completion",
        "model": "text",
        "early": False,
        "completions": [],
        "usage": {"prompt_characters": 5, "completion_characters": 10},
        "unknown_characters": ["Ω"],
    }
    assert [first["index"], second["index"]] == [0, 1] and first["text"] != second["text"]
    assert [one["character"] for one in first["logprobs"]] == list(first["text"])
    bits = -sum(one["logprob"] for one in first["logprobs"]) / 0.6931471805599453
    assert bits == pytest.approx(first["bits"], abs=1e-6)
    assert "".join(text for text, index in found["pieces"] if index == 1) == second["text"]
    kinds = [event["type"] for event in found["events"]]
    assert kinds == [*["piece"] * 5, "finished"] * 2 + ["done"]
    pieces = [event["text"] for event in found["events"] if event["type"] == "piece" and event["index"] == 0]
    assert "".join(pieces) == first["text"]
    assert found["next"]["object"] == "distribution" and len(found["next"]["candidates"]) == 2
    assert found["score"]["lines"] is None and len(found["scores"]["lines"]) == 2
    assert found["score"]["score"] is None and found["info"]["calibrated"] is False
    assert found["scores"]["lines"][0]["total_bits"] == found["score"]["total_bits"]
    assert found["info"]["name"] == "text" and found["info"]["bytes"] == files["text"].stat().st_size


def test_a_model_of_a_log_masks_and_scores(files: dict[str, Path]) -> None:
    line = "2024-01-01T10:00:00 disk 2 is 99999% full of Ω, says 10.0.0.1"
    scored, completion = run(
        "const model = await load(file);"
        "print([await model.score([given, ''], { false_alarms: 0.1 }), await model.complete(given)])",
        files["log"],
        line,
    )
    packed = Packed(files["log"].read_bytes())
    assert scored["lines"] == [{"lines": 1} | packed.score(one, false_alarms=0.1) for one in (line, "")]
    assert scored["lines"][0]["anomalous"] and scored["characters"] == len(line)
    assert completion["unknown_characters"] == ["Ω"]  # of the masked prompt


def test_a_newer_call_need_not_wait_for_one_that_was_aborted(files: dict[str, Path]) -> None:
    found = run(
        """const model = await load(file);
        const stop = new AbortController();
        const stale = model.complete("the ".repeat(20000), { signal: stop.signal }).catch(({ name }) => name);
        const late = await codeOf(model.complete("a", { max_characters: 1e6, timeout: 50 }));
        stop.abort();
        const events = [];
        const endless = model.stream("the ", { max_characters: 1e6 });
        for await (const event of endless) if (events.push(event) === 3) break;
        const { completions: [{ text }] } = await model.complete("the ", { max_characters: 3, seed: 1 });
        model.close();
        print([await stale, late, text.length, await codeOf(model.complete("a"))])""",
        files["text"],
    )
    late, closed = ["timeout", "no result within 50 ms"], ["closed", "the model is closed"]
    assert found == ["AbortError", ["NextcharError", *late], 3, ["NextcharError", *closed]]


def test_completions_ahead_are_those_of_the_likeliest_prompts(files: dict[str, Path]) -> None:
    found = run(
        """const model = await load(file), ahead = [], calls = [];
        const options = { max_characters: 7, temperature: 0, logprobs: 0 };
        await model.complete("the ", options);
        await model.ahead("the ", (one) => ahead.push(one), { ...options, top: 4 });
        for (const { character } of (await model.next("the ", { top: 4 })).candidates) {
          const prompt = `the ${character}`;
          calls.push({ prompt, response: await model.complete(prompt, options) });
        }
        print([ahead, calls])""",
        files["text"],
    )
    ahead, calls = found
    assert ahead == calls and len({one["prompt"] for one in ahead}) == 4


def test_a_newer_call_ends_those_that_are_computed_ahead(files: dict[str, Path]) -> None:
    found = run(
        """const model = await load(file), prompts = [];
        const options = { max_characters: 3000, temperature: 0, top: 30 };
        const ahead = codeOf(model.ahead("the ", ({ prompt }) => prompts.push(prompt), options));
        const { completions: [{ text }] } = await model.complete("a", { max_characters: 3 });
        print([await ahead, prompts.length, text.length])""",
        files["text"],
    )
    assert found == [["NextcharError", "invalid_request", "cancelled"], 0, 3]


def test_what_cannot_be_done_is_refused_in_words(files: dict[str, Path]) -> None:
    calls = {
        "complete('a', { beam: 2 })": "beam: a model without a service has no such option",
        "complete('a', { temperature: 11 })": "temperature must be from 0 to 10",
        "next('a', { expert: 'lstm' })": "expert: a model without a service predicts by its mixture only",
        "complete('a', { logprobs: 3 })": "logprobs must be 0, and without stop, where no service is",
        "complete('a', { max_characters: 0 })": "max_characters must be an integer from 1 to 1000000",
        "complete('a', { until: 'page' })": "until must be word or line or confidence",
        "next('a', { top: 0.5 })": "top must be an integer from 1 to 65536",
        "suggest('a')": "the model has no lines to suggest: it is not of records",
        "suggest('a', { constrain: 'none' })": "constrain: a model without a service suggests its lines only",
        "remember('a')": "the model was loaded without remember",
    }
    each = ",".join(f"codeOf(model.{call})" for call in calls)
    found = run(f"const model = await load(file); print(await Promise.all([{each}]))", files["text"])
    assert [message for _, _, message in found] == list(calls.values())


def test_files_that_cannot_be_opened_are_refused_in_words(files: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(files["text"].read_bytes())
    data[5000] ^= 1
    (damaged := tmp_path / "damaged").write_bytes(data)
    script = """print(await Promise.all([codeOf(load(file)), codeOf(load(new Uint8Array(8))),
      codeOf(load("no-such-file")),
      codeOf(load(given, { integrity: "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" })),
      codeOf(load(given, { wasm: new Uint8Array(9) }))]))"""
    names, codes, messages = zip(*run(script, damaged, str(files["text"])), strict=True)
    assert set(names) == {"NextcharError"}
    assert codes == ("invalid_file", "invalid_file", "unreachable", "unreachable", "unsupported")
    assert "its checksum differs" in messages[0] and "it is no packed model" in messages[1]
    assert "integrity does not fit" in messages[3] and "SIMD" in messages[4]


def test_what_is_remembered_is_read_before_prompts_and_can_be_forgotten(files: dict[str, Path]) -> None:
    found = run(
        """const model = await load(file, { remember: true });
        const options = { seed: 1, max_characters: 60 };
        const text = async (prompt) => (await model.complete(prompt, options)).completions[0].text;
        const before = await text("\\nthe ");
        await model.remember("cat (sat) on a mat");
        const after = [await text("\\nthe "), await text("the ")];
        await model.forget();
        print([before, ...after, await text("\\nthe "), await text("cat (sat) on a mat\\nthe ")])""",
        files["text"],
    )
    before, after, again, forgotten, whole = found
    assert after == again == whole != before == forgotten


def test_lines_are_suggested_as_by_the_service_and_accepted_ones_first(files: dict[str, Path]) -> None:
    service = Model(saved("records"), threads=1)
    wanted = service.suggest("the", limit=6)
    without_first = service.suggest("the", limit=5, exclude=[wanted[0].text])
    service.close()
    found = run(
        """const model = await load(file, { remember: true });
        const textsOf = ({ suggestions }) => suggestions.map(({ text }) => text);
        const { suggestions, ...response } = await model.suggest("the", { limit: 6, typos: null });
        await model.accept(suggestions[3].text);
        await model.accept("theremin");
        await model.accept("theremin");
        const after = (await model.suggest("the", { limit: 6 })).suggestions;
        await model.forget();
        print([suggestions, response, after, textsOf(await model.suggest("the", { limit: 6 })),
          textsOf(await model.suggest("the", { limit: 5, exclude: [given.toUpperCase()] })),
          (await model.suggest("thd", { typos: 1, context: "" })).suggestions[0].replaced])""",
        files["records"],
        wanted[0].text,
    )
    suggestions, response, after, forgotten, others, replaced = found
    assert [one["text"] for one in suggestions] == [one.text for one in wanted] == forgotten
    assert [one["count"] for one in suggestions] == [one.count for one in wanted]
    assert [one["probability"] for one in suggestions] == pytest.approx(
        [one.probability for one in wanted], abs=1e-4
    )
    assert suggestions[2]["id"] == f"{response['id']}.2" and suggestions[2]["exists"]
    assert set(suggestions[2]) == {"id", "text", "probability", "count", "exists", "replaced"}
    assert response["model"] == "records" and response["prefix"] == "the"
    assert [one["text"] for one in after[:3]] == ["theremin", suggestions[3]["text"], suggestions[0]["text"]]
    assert after[0]["count"] == pytest.approx(2) and len(after) == 6
    assert others == [one.text for one in without_first]
    assert replaced == {"start": 2, "end": 3}


def test_runtime_and_glue_are_at_most_sixty_kilobytes_compressed() -> None:
    names = (
        loaded_with("nextchar.js")
        | loaded_with("offline-field.js")
        | {"offline-worker.js", "offline-memory.js"}
    )
    wasm = len(gzip.compress((FOLDER / "nextchar.wasm").read_bytes(), 9))
    assert wasm + sum(map(compressed_bytes, names)) < 60_000
    assert loaded_with("offline.js") == {"offline.js", "client.js"}  # which Node.js loads, without fields


def test_wasm_of_the_package_is_the_runtimes() -> None:
    assert (FOLDER / "nextchar.wasm").read_bytes() == (
        FOLDER.parent / "offline" / "nextchar.wasm"
    ).read_bytes()
