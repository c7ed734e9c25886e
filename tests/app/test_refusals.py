"""What is refused, and how: every row of this table is sent to one service, and changes nothing in it.

A test that would only send a request and read its error belongs here, as a row.
"""

import gzip
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from nextchar.app.logs.ingest.kept_lines import lines_key
from nextchar.app.rooms import ApiSettings
from nextchar.models.config import MINIMUM_CHARACTERS
from tests.app.fakes import CHARACTERS, publish
from tests.app.service import MAX_CORPUS_BYTES, TEXT, TRAINING_MEMORY_BYTES, Service, error_of, serving, until

JSON = "application/json"


@dataclass(frozen=True)
class Refusal:
    """A request, and the error that is its answer; a body that is not bytes is sent as JSON."""

    method: str
    path: str
    body: object
    status: int
    code: str
    param: str | None = None
    says: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes | None:
        """The bytes of the body."""
        return self.body if isinstance(self.body, bytes | None) else json.dumps(self.body).encode()

    @property
    def label(self) -> str:
        """The name of the row in reports."""
        return f"{self.method} {self.path[:60]}: {self.status} {self.code} {self.param or ''}".strip()


def get(path: str, status: int, code: str, param: str | None = None, **more: Any) -> Refusal:
    return Refusal("GET", path, None, status, code, param, **more)


def changed(path: str, body: dict[str, Any], *cases: tuple[Any, ...], method: str = "POST") -> list[Refusal]:
    """A row for each (change of the body, status, code, param, what the message says)."""
    return [Refusal(method, path, body | change, *expected) for change, *expected in cases]


def sent(path: str, kind: str, *cases: tuple[Any, ...], **headers: str) -> list[Refusal]:
    """A row for each (bytes, status, code, param, what the message says), sent as what `kind` says."""
    headers = {"content-type": kind} | headers
    return [Refusal("POST", path, data, *expected, headers=headers) for data, *expected in cases]


def form(path: str, *cases: tuple[Any, ...]) -> Iterator[Refusal]:
    """A row for each (files, fields, status, code, param, what the message says) of a form."""
    for files, fields, *expected in cases:
        encoded = httpx.Request("POST", "http://localhost", files=files, data=fields)
        headers = {"content-type": encoded.headers["content-type"]}
        yield Refusal("POST", path, encoded.read(), *expected, headers=headers)


def http() -> Iterator[Refusal]:
    for path in ("/nothing", "/v1", "/v1/nothing", "/v1/jobs/x/y/z"):
        yield get(path, 404, "no_such_route")
    yield Refusal("PUT", "/v1/jobs", None, 405, "method_not_allowed")
    yield get("/v1/models/", 404, "no_such_route")
    for path in ("/console/nothing.js", "/console/..%2fmain.py", "/console/views", "/console/"):
        yield get(path, 404, "no_such_route")
    yield Refusal("POST", "/console/app.js", None, 405, "method_not_allowed")
    for path in ("nothing.js", "", "..%2f..%2fpyproject.toml", "%00"):
        yield get(f"/clients/js/{path}", 404, "no_such_route")
    yield from sent(
        "/v1/jobs",
        JSON,
        (b'{"corpus": ', 400, "malformed_json", "body"),
        (b"[1, 2", 400, "malformed_json", "body"),
        (b"{'corpus': 1}", 400, "malformed_json", "body"),
        (b"\xff\xfe", 400, "malformed_json", "body"),
        (b"[" * 100_000, 400, "malformed_body"),
        (b"[]", 422, "invalid_field", "body"),
        (b"null", 422, "invalid_field", "body"),
        (b'"text"', 422, "invalid_field", "body"),
        (b"7", 422, "invalid_field", "body"),
        (b"", 422, "invalid_field", "body"),
    )
    form_type = "application/x-www-form-urlencoded"
    yield from sent("/v1/jobs", form_type, (b'{"corpus": "a"}', 415, "unsupported_media_type", "body", JSON))
    yield from changed(
        "/v1/jobs",
        {"corpus": "a", "name": "b"},
        ({"corpus": 1, "name": 2, "seed": "x"}, 422, "invalid_field", "corpus", "2 more fields are invalid"),
        ({f"k{i}": 1 for i in range(900)}, 422, "unknown_field", "k0", "there is no such field (899 more"),
        ({f"k{i}": 1 for i in range(60_000)}, 422, "invalid_request", "body", "the body has 60,000 errors"),
    )

    too_large = b'{"corpus": "%b"}' % (b"a" * (1 << 20))
    says = "the body is larger than the 1,048,576 bytes that this call accepts"
    yield from sent("/v1/jobs", JSON, (too_large, 413, "body_too_large", None, says))


def query_parameters() -> Iterator[Refusal]:
    for method, path, body, name in (
        ("GET", "/v1/jobs?limit=1&status=running", None, "status"),
        ("POST", "/v1/models/fake/complete?stream=1", {"prompt": "a"}, "stream"),  # it has a fast path
        ("POST", "/v1/models/fake/ingest?lines=message", {"prompt": "a"}, "lines"),  # has a class of them
        ("PATCH", "/v1/models/fake@1?forced=true", {"name": "other"}, "forced"),
        ("GET", "/v1/models/fake/report?client_version=1", None, "client_version"),
        ("GET", "/v1/corpora?" + "x" * 500 + "=1", None, "x" * 100),
    ):
        yield Refusal(method, path, body, 422, "unknown_field", name)
    of_call = "limt: there is no such query parameter of this call, which has after, limit"
    yield get("/v1/corpora?limt=1", 422, "unknown_field", "limt", says=of_call)
    yield get("/v1/architectures?verbose", 422, "unknown_field", "verbose", says="which has none")


def corpora() -> Iterator[Refusal]:
    for path in ("/v1/corpora/corpus_000000000000", "/v1/corpora/nobody", "/v1/corpora/nobody/text"):
        yield get(path, 404, "corpus_not_found", "corpus")
    yield Refusal("DELETE", "/v1/corpora/nobody", None, 404, "corpus_not_found", "corpus")
    yield Refusal("PATCH", "/v1/corpora/nothing", {"kind": "text"}, 404, "corpus_not_found", "corpus")
    yield get("/v1/corpora/foxs", 404, "corpus_not_found", "corpus", says="'foxs'; did you mean fox?")
    yield get("/v1/corpora?after=corpus_0", 422, "unknown_cursor", "after")
    yield get("/v1/corpora?limit=0", 422, "invalid_field", "limit")
    for name in ("", "a/b", "corpus_x", "x" * 65, "../up"):
        yield from sent(f"/v1/corpora?name={name}", "text/plain", (b"text", 422, "invalid_name", "name"))
    yield from sent(
        "/v1/corpora",
        "text/plain",
        (b"", 422, "corpus_empty", "body"),
        (b"abc\xff\xfe", 422, "corpus_not_utf8", "body", "offset 3"),
        (b"a" * 1_500_000 + b"\xc3", 422, "corpus_not_utf8", "body", "offset 1500000"),
        (b"a" * (MAX_CORPUS_BYTES + 1), 413, "corpus_too_large"),
    )
    yield from sent(
        "/v1/corpora", "text/plain; charset=latin-1", (b"abc", 415, "unsupported_charset", "body")
    )
    kind = {"content-encoding": "br"}
    yield from sent("/v1/corpora", "text/plain", (b"abc", 415, "unsupported_encoding", "body"), **kind)
    whole = gzip.compress(random.Random(1).randbytes(5000).hex().encode())
    yield from sent(
        "/v1/corpora",
        "text/plain",
        (whole[:-9], 422, "gzip_broken", "body"),
        (whole[:500] + b"\0" * 60 + whole[560:], 422, "gzip_broken", "body"),
        (b"hello", 422, "gzip_broken", "body"),
        (whole + b"junk", 422, "gzip_broken", "body"),
        (gzip.compress(b"\0" * 1_000_000) * 50, 413, "corpus_too_large"),
        **{"content-encoding": "gzip"},
    )
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n'
    named = part.replace(b"file", b"name", 1)
    multipart = "multipart/form-data; boundary=x"
    yield from sent(
        "/v1/corpora",
        multipart,
        (part, 422, "form_broken", "body"),
        (b"no form at all", 422, "form_broken", "body"),
        (part + part + b"--x--\r\n", 422, "form_broken", "file"),
        (named + b"--x--\r\n", 422, "form_broken", "name", "?name=NAME"),
    )
    for kind_ in ("multipart/form-data", "multipart/form-data; boundary=" + 257 * "x"):
        yield from sent("/v1/corpora", kind_, (part + b"--x--\r\n", 422, "form_broken", "body"))
    yield from form("/v1/corpora", ({"file": ("x", b"")}, {}, 422, "corpus_empty", "body"))


def jobs() -> Iterator[Refusal]:
    job = {"corpus": "fox", "name": "fox"}
    invalid, unknown = (422, "invalid_field"), (422, "unknown_field")
    yield from changed(
        "/v1/jobs",
        job,
        ({"corpus": "corpus_000000000000"}, 404, "corpus_not_found", "corpus"),
        ({"corpus": "nobody"}, 404, "corpus_not_found", "corpus"),
        ({"corpus": "small"}, 422, "corpus_too_small", "corpus", str(MINIMUM_CHARACTERS)),
        ({"network": {"layers": 8, "units": 4096}}, 422, "network_too_large", "network", "GiB"),
        ({"masks": ["numbers", "(a"]}, 422, "invalid_mask", "masks"),
        ({"colour": "red"}, *unknown, "colour"),
        ({"network": {"heads": 4}}, *unknown, "network.heads"),
        ({"network": {"units": "64"}}, *invalid, "network.units"),
        ({"network": {"units": 0}}, *invalid, "network.units"),
        ({"network": 7}, *invalid, "network"),
        ({"training": {"rows": 1.5}}, *invalid, "training.rows"),
        ({"budget": {}}, *invalid, "budget"),
        ({"budget": {"steps": 1, "epochs": 1}}, *invalid, "budget"),
        ({"budget": {"seconds": -1}}, *invalid, "budget.seconds"),
        ({"preset": "huge"}, *invalid, "preset"),
        ({"preset": "smal"}, *invalid, "preset", 'not "smal"; did you mean small?'),
        ({"preset": "big"}, *invalid, "preset", "did you mean large?"),
        ({"architecture": "transformer"}, *invalid, "architecture"),
        ({"name": "a b"}, *invalid, "name", "name: must be 1 to 64 letters, digits, '.', '_' and '-', "),
        ({"name": "job_1"}, 422, "invalid_name", "name"),
        ({"name": None}, *invalid, "name"),
        ({"corpus": 5}, *invalid, "corpus"),
        ({"seed": True}, *invalid, "seed"),
        ({"seed": -1}, *invalid, "seed"),
        ({"validation_fraction": 0.9}, *invalid, "validation_fraction"),
        # What an architecture does not have
        ({"architecture": "gru"}, *invalid, "architecture", "'nth_char', 'simple_rnn'"),
        ({"architecture": "lstm"}, *invalid, "architecture", "did you mean stateful_lstm?"),
        (
            {"start_from": "fkae"},
            404,
            "model_not_found",
            "start_from",
            "start_from: there is no model 'fkae'; start from one of your models, or from base/code@1 or",
        ),
        (
            {"architecture": "onehot_rnn", "network": {"embedding": 8}},
            422,
            "option_not_available",
            "network.embedding",
            "onehot_rnn has no such option; it has units, context",
        ),
        (
            {"architecture": "numpy_rnn", "training": {"rows": 8}},
            422,
            "option_not_available",
            "training.rows",
            "numpy_rnn has no such option; it has learning_rate, clip_norm",
        ),
        (
            {"network": {"context": 8}},
            422,
            "option_not_available",
            "network.context",
            "stateful_lstm has no such option",
        ),
        (
            {"architecture": "nth_char", "preset": "small"},
            422,
            "option_not_available",
            "preset",
            "leave preset out",
        ),
        # What cannot be mixed
        ({"mix": {"corpus": "fox", "fraction": 0.01}}, 422, "mix_has_no_rows", "mix.fraction"),
        ({"mix": {"corpus": "fox", "fraction": 0.999}}, 422, "mix_has_no_rows", "mix.fraction"),
        ({"mix": {"corpus": "fox", "fraction": 2}}, *invalid, "mix.fraction"),
        ({"mix": {"corpus": "fox", "targets": "argmax"}}, *invalid, "mix"),
        ({"mix": {"corpus": "fox", "teacher": "nobody"}}, 404, "model_not_found", "mix.teacher"),
        ({"mix": {"corpus": "nowhere"}}, 404, "corpus_not_found", "mix.corpus"),
        ({"mix": {"corpus": "\ud800"}}, *invalid, "mix.corpus"),
    )
    yield Refusal("POST", "/v1/jobs", {"name": "fox"}, *invalid, "corpus")
    for path in ("/v1/jobs/job_000000000000", "/v1/jobs/job_000000000000/events"):
        yield get(path, 404, "job_not_found", "job")
    for verb in ("cancel", "pause", "resume"):
        yield Refusal("POST", f"/v1/jobs/nonsense/{verb}", None, 404, "job_not_found", "job")


def models() -> Iterator[Refusal]:
    for path in (
        "nobody",
        "fake@9",
        "nobody/files/model.onnx",
        "none/report",
        "nobody/aliases",
        "none/health",
    ):
        yield get(f"/v1/models/{path}", 404, "model_not_found", "model")
    yield Refusal("DELETE", "/v1/models/nobody", None, 404, "model_not_found", "model")
    yield get("/v1/models/fake/files/model.pickle", 404, "file_not_found", "name", says="model.onnx")
    yield get("/v1/models/fake/files/..%2F..%2Fsecret", 404, "no_such_route")
    yield get("/v1/models/fake/report?format=pdf", 422, "invalid_field", "format")
    yield get("/v1/models/fake/report?format=html", 404, "report_not_found", "format")
    yield get("/v1/models/fake@champion", 404, "model_not_found", "model")
    champion = "/v1/models/fake/aliases/champion"
    for method, path in (("GET", champion), ("DELETE", champion), ("POST", f"{champion}/rollback")):
        yield Refusal(method, path, None, 404, "alias_not_found", "alias")
    for name, body, *expected in (
        ("fake/aliases/champion", {"version": 9}, 404, "model_not_found", "model"),
        ("nobody/aliases/champion", {"version": 1}, 404, "model_not_found", "model"),
        ("fake@1/aliases/champion", {"version": 1}, 422, "invalid_name", "model"),
        ("fake/aliases/3", {"version": 1}, 422, "invalid_alias", "alias"),
        ("fake/aliases/latest", {"version": 1}, 422, "invalid_alias", "alias"),
        ("fake/aliases/champion", {"version": 0}, 422, "invalid_field", "version"),
        ("fake/aliases/champion", {"version": "1"}, 422, "invalid_field", "version"),
        (
            "fake/aliases/champion",
            {"version": 1, "require": {"bits": 2}},
            422,
            "unknown_field",
            "require.bits",
        ),
    ):
        yield Refusal("PUT", f"/v1/models/{name}", body, *expected)


def completions() -> Iterator[Refusal]:
    invalid = (422, "invalid_field")
    yield from changed(
        "/v1/models/fake/complete",
        {"prompt": "a"},
        ({"prompt": "a" * 1_000_001}, *invalid, "prompt"),
        ({"prompt": None}, *invalid, "prompt"),
        ({"prompt": ["a"]}, *invalid, "prompt"),
        ({"prompt": 5}, *invalid, "prompt", "prompt: must be a valid string"),
        ({"prompt": "\ud800"}, *invalid, "prompt"),
        ({"max_characters": 0}, *invalid, "max_characters"),
        ({"max_characters": -1}, *invalid, "max_characters"),
        ({"max_characters": 10_001}, *invalid, "max_characters"),
        ({"max_characters": "40"}, *invalid, "max_characters"),
        ({"max_characters": 1.5}, *invalid, "max_characters"),
        ({"n": 0}, *invalid, "n"),
        ({"n": 65}, *invalid, "n"),
        ({"n": 10**40}, *invalid, "n", "n: must be at most 64"),
        ({"n": 64, "max_characters": 10_000}, *invalid, "body"),
        ({"temperature": -0.1}, *invalid, "temperature", "temperature: must be at least 0, not -0.1"),
        ({"temperature": "hot"}, *invalid, "temperature"),
        ({"top_k": 0}, *invalid, "top_k"),
        ({"top_p": 0}, *invalid, "top_p"),
        ({"top_p": 1.1}, *invalid, "top_p", "top_p: must be at most 1, not 1.1"),
        ({"min_p": 2}, *invalid, "min_p"),
        ({"seed": -1}, *invalid, "seed"),
        ({"stop": [""]}, *invalid, "stop.0"),
        ({"stop": ["x"] * 17}, *invalid, "stop", "at most 16 items"),
        ({"stop": ["x" * 201]}, *invalid, "stop.0", "at most 200 characters"),
        ({"stop": 5}, *invalid, "stop", "a valid string or a valid list"),
        ({"until": "soon"}, *invalid, "until", "must be 'word', 'line' or 'confidence', not \"soon\""),
        ({"timeout_ms": 0}, *invalid, "timeout_ms"),
        ({"timeout_ms": 600_001}, *invalid, "timeout_ms"),
        ({"beam": 0}, *invalid, "beam"),
        ({"beam": 65}, *invalid, "beam"),
        ({"beam": 64, "max_characters": 10_000}, *invalid, "body"),
        ({"no_repeat": 0}, *invalid, "no_repeat"),
        ({"best_of": 0}, *invalid, "best_of"),
        ({"best_of": 64, "max_characters": 10_000}, *invalid, "body"),
        ({"best_of": 2, "stream": True}, 422, "invalid_request", "best_of", "stream"),
        ({"precision": "bfloat16"}, *invalid, "precision"),
        ({"length_penalty": -1, "beam": 2}, *invalid, "length_penalty"),
        ({"logprobs": 21}, *invalid, "logprobs"),
        ({"stream": "yes"}, *invalid, "stream"),
        ({"max_tokens": 5}, 422, "unknown_field", "max_tokens"),
    )
    for name in ("temperature", "top_p", "min_p", "confidence_bits"):
        for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
            body = b'{"prompt": "a", "%b": %b}' % (name.encode(), number)
            yield from sent("/v1/models/fake/complete", JSON, (body, *invalid, name))
    misspelled = "prompt: is missing; promt: there is no such field; did you mean prompt?"
    yield Refusal("POST", "/v1/models/any/complete", {"promt": "a"}, *invalid, "prompt", misspelled)
    for name, param in (
        ("a.b\n<script>", r"'a.b\n<script>'"),
        ("", "''"),
        ("ü ü", "'ü ü'"),
        ("x " * 100, repr("x " * 50)),
    ):
        body_ = {"prompt": "a", name: 1}
        says = f"{param}: there is no such field"
        yield Refusal("POST", "/v1/models/any/next", body_, 422, "unknown_field", param, says)
    for model, says in (
        ("fkae", "there is no model 'fkae'; did you mean fake?"),
        ("Fake", "did you mean fake?"),
        ("fake@2", "there is no model 'fake@2'; did you mean fake@1?"),
    ):
        yield Refusal(
            "POST", f"/v1/models/{model}/next", {"prompt": ""}, 404, "model_not_found", "model", says
        )
    for model in ("nobody", "fake@2", "fake@x", "a b", "model_1"):
        for call in ("complete", "next"):
            yield Refusal(
                "POST", f"/v1/models/{model}/{call}", {"prompt": ""}, 404, "model_not_found", "model"
            )
    yield Refusal("POST", "/v1/models/nobody/tokenize", {"prompt": "a"}, 404, "model_not_found", "model")


def scoring() -> Iterator[Refusal]:
    path, invalid = "/v1/models/fake/score", (422, "invalid_field")
    yield from changed(
        path,
        {},
        ({}, *invalid, "body"),
        ({"text": "a", "lines": ["b"]}, *invalid, "body"),
        ({"text": ""}, *invalid, "text"),
        ({"text": "a" * 1_000_001}, *invalid, "text"),
        ({"text": 5}, *invalid, "text"),
        ({"lines": []}, *invalid, "lines"),
        ({"lines": "abc"}, *invalid, "lines"),
        ({"lines": [1]}, *invalid, "lines.0"),
        ({"lines": ["a" * 600_000] * 2}, *invalid, "body"),
        ({"lines": ["a"] * 10_001}, *invalid, "lines"),
        ({"lines": ["ab", "\ud800"]}, *invalid, "lines.1"),
        ({"text": "a", "detail": "much"}, *invalid, "detail"),
        ({"text": "a", "threshold": 1}, 422, "unknown_field", "threshold"),
        ({"text": "a", "context": "stream"}, *invalid, "body"),
        ({"text": "a", "stream_id": "s"}, *invalid, "body"),
        ({"lines": ["a"], "context": "stream", "adapt": True}, 422, "unknown_field", "adapt"),  # of 0.1
        ({"lines": ["a"], "context": "stream", "stream_id": "a b"}, *invalid, "stream_id"),
        ({"lines": ["a"], "expected": 1, "detail": "line"}, *invalid, "body"),
        ({"text": "a" * 60_000, "expected": 1}, *invalid, "body"),
        ({"text": "a" * 15_000, "expected": 20}, 422, "answer_too_large", "expected", "at most 14,285 ch"),
        ({"lines": ["ab" * 50] * 500, "expected": 6}, 422, "answer_too_large", "expected", "at most 42,857"),
        ({"text": "a", "false_alarms": 0}, *invalid, "false_alarms"),
        ({"text": "a", "false_alarms": 1}, *invalid, "false_alarms"),
        ({"text": "a", "calibration": "../x"}, *invalid, "calibration"),
        ({"lines": ["a"], "false_alarms": 0.1}, 422, "no_calibration", "false_alarms"),
        ({"lines": ["ab"], "calibration": "web-2"}, 404, "calibration_not_found", "calibration"),
    )
    yield Refusal("POST", "/v1/models/nobody/score", {"text": "a"}, 404, "model_not_found", "model")
    few = {"lines": ["a"], "false_alarms": 0.001}
    says = "at least 999 calibration lines"
    code = "too_few_calibration_lines"
    yield Refusal("POST", "/v1/models/calibrated/score", few, 422, code, "false_alarms", says)
    for query, *expected in (
        ("detail=much", *invalid, "detail"),
        ("false_alarms=2", *invalid, "false_alarms"),
        ("expected=3", *invalid, "query"),
        ("colour=red", 422, "unknown_field", "colour"),
        ("calibration=x", 404, "calibration_not_found", "calibration"),
    ):
        yield from sent(f"{path}?{query}", "text/plain", (b"a\n", *expected))
    yield from sent("/v1/models/nobody/score", "text/plain", (b"a\n", 404, "model_not_found", "model"))
    encoding = {"content-encoding": "br"}
    yield from sent(path, "text/plain", (b"a\n", 415, "unsupported_encoding", "body"), **encoding)


def calibration() -> Iterator[Refusal]:
    invalid, few = (422, "invalid_field"), (422, "too_few_calibration_lines")
    reserved = (409, "calibration_reserved")
    yield from changed(
        "/v1/models/fake/calibrate",
        {},
        ({"lines": ["a"]}, *few, "lines"),
        ({"lines": ["a"] * 98, "false_alarms": 0.01}, *few, "false_alarms"),
        ({}, *invalid, "body"),
        ({"lines": ["a"] * 9, "corpus": "x"}, *invalid, "body"),
        ({"lines": []}, *invalid, "lines"),
        ({"lines": ["ab", "\ud800"]}, *invalid, "lines.1"),
        ({"lines": ["a"] * 9, "name": "no/name"}, *invalid, "name"),
        ({"lines": ["a"] * 9, "name": "job_1"}, 422, "invalid_name", "calibration"),
        ({"lines": ["a"] * 9, "buckets": 9}, *invalid, "buckets"),
        ({"corpus": "nothing"}, 404, "corpus_not_found", "corpus"),
        ({"lines": ["a"] * 150, "name": "validation"}, *reserved, "name"),
    )
    yield Refusal("DELETE", "/v1/models/fake/calibrations/validation", None, *reserved)
    yield from changed(
        "/v1/models/fake/evaluate",
        {"lines": ["a"] * 40, "anomalous": [0] * 20 + [1] * 20},
        ({"anomalous": [0] * 40}, 422, "one_class", "anomalous"),
        ({}, 422, "one_class", "anomalous"),
        ({"lines": ["a"] * 4, "anomalous": [0] * 3}, *invalid, "body"),
        ({"lines": ["a"] * 3, "anomalous": [0, 1, 2]}, *invalid, "anomalous.2.bool"),
        ({"lines": ["a"] * 3, "anomalous": [1, 1, 0]}, *few, "lines"),
        ({"lines": ["ab", "\ud800"], "anomalous": [0, 1]}, *invalid, "lines.1"),
        ({"anomalous": [0, 1] * 20, "split": "none"}, 422, "no_calibration", "split"),
        ({"lines": ["a"] * 400, "anomalous": [0, 1] * 200, "false_alarms": 0.001}, *few, "false_alarms"),
    )


def logs() -> Iterator[Refusal]:
    path = "/v1/models/calibrated/ingest"
    lines, too_large = "application/x-ndjson", (413, "batch_too_large", "body")
    yield from sent(
        path,
        lines,
        (b"nope\n", 422, "malformed_line", "body"),
        (b'{"message": "' + rb"\n" * 200_001 + b'"}', *too_large),
    )
    yield from sent(path, JSON, (b'[{"message": "ab"}', 422, "malformed_json", "body"))
    yield from sent(path, "application/xml", (b"ab\n", 415, "unsupported_media_type", "body"))
    yield from sent(path, "text/plain", (b"ab\n" * 1_001, *too_large), (b"\n" * 100_001, *too_large))
    encoding = {"content-encoding": "gzip"}
    bomb = gzip.compress(b"a" * (17 << 20))
    yield from sent(
        path, lines, (b"nope", 422, "gzip_broken", "body"), (bomb, 413, "body_too_large", "body"), **encoding
    )
    yield from sent("/v1/models/none/ingest", lines, (b'"ab"', 404, "model_not_found", "model"))
    yield from sent("/v1/models/fake/ingest", lines, (b'"ab"', 422, "no_calibration", None, "calibrate"))
    yield from sent(f"{path}?calibration=web", lines, (b'"ab"', 404, "calibration_not_found", "calibration"))
    few = (422, "too_few_calibration_lines", "false_alarms")
    yield from sent(f"{path}?false_alarms=0.0001", lines, (b'"ab"', *few))
    for number in (2**64, 2**63):
        yield get(f"{path}/events?after={number}", 422, "invalid_field", "after")
        header = {"last-event-id": str(number)}
        yield get(f"{path}/events", 422, "invalid_field", "last-event-id", headers=header)
    record = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "ab"}}]}]}]}
    yield Refusal("POST", "/v1/logs", record, 422, "model_missing", "model")


def alerts() -> Iterator[Refusal]:
    model, tomorrow = "/v1/models/fake", 4_000_000_000
    alert, gone = f"{model}/alerts/alert_000000000000", (404, "alert_not_found", None)
    invalid, says = (422, "invalid_field"), "deleted 30 days after its last line"
    for path, body, *expected in (
        (f"{model}/suppressions", {"template": "*", "until": 1}, *invalid, "body"),
        (f"{model}/suppressions", {"template": "*", "until": 1e300}, *invalid, "until"),
        (f"{model}/suppressions", {"template": "", "until": tomorrow}, *invalid, "template"),
        (f"{model}/suppressions", {"until": tomorrow}, *invalid, "template"),
        (f"{alert}/suppress", {"until": "tomorrow"}, *invalid, "until"),
        (f"{alert}/suppress", {}, *invalid, "until"),
        (f"{alert}/suppress", {"until": tomorrow}, *gone, says),
        (f"{alert}/label", {"label": "boring"}, *invalid, "label"),
        (f"{alert}/label", {}, *invalid, "label"),
        (f"{alert}/label", {"label": "normal"}, *gone, says),
        (f"{alert}/acknowledge", None, *gone, says),
    ):
        yield Refusal("POST", path, body, *expected)
    yield get(alert, *gone, says=says)
    yield get(f"{model}/alerts/export?format=xml", *invalid, "format")


def notifications() -> Iterator[Refusal]:
    invalid = (422, "invalid_field")
    yield from changed(
        "/v1/notification_targets",
        {"kind": "webhook", "url": "https://example.org"},
        ({"url": "http://127.0.0.1/"}, 422, "private_target", "url"),
        ({"url": "http://localhost:9093"}, 422, "private_target", "url"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, 422, "private_target", "url"),
        ({"url": "https://nothing.invalid/"}, 422, "unresolved_target", "url"),
        ({"url": "gopher://example.org"}, 422, "invalid_url", "url"),
        ({"url": None}, *invalid, "url"),
        ({"kind": "mail"}, *invalid, "kind"),
        ({"events": []}, *invalid, "events"),
        ({"events": ["job.done"]}, *invalid, "events.0"),
        ({"kind": "alertmanager", "events": ["job.failed"]}, *invalid, "body"),
    )
    yield get("/v1/notification_targets/target_000000000000", 404, "target_not_found")
    for method, path in (("DELETE", ""), ("POST", "/test")):
        target = f"/v1/notification_targets/target_000000000000{path}"
        yield Refusal(method, target, None, 404, "target_not_found")


def openai() -> Iterator[Refusal]:
    invalid, request = (400, "invalid_field"), (400, "invalid_request")
    hyperparameters = {"n_epochs": 1}
    twice = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    yield from changed(
        "/v1/fine_tuning/jobs",
        {"model": "tiny", "training_file": "fox"},
        ({"model": "gpt-4o"}, 404, "model_not_found", "model", ", or train a new one with auto, tiny, "),
        ({"training_file": "corpus_000000000000"}, 404, "file_not_found", "training_file"),
        ({"validation_file": "corpus_000000000000"}, 404, "file_not_found", "validation_file"),
        ({"validation_file": "three"}, *request, "validation_file", "75.0%"),
        ({"suffix": "two words"}, *invalid, "suffix"),
        ({"suffix": "job_1"}, 400, "invalid_name", "suffix"),
        ({"method": {"type": "dpo"}}, *invalid, "method.type"),
        ({"integrations": [{"type": "wandb"}]}, *invalid, "integrations"),
        ({"hyperparameters": {"n_epochs": 0}}, *invalid, "hyperparameters.n_epochs.constrained-float"),
        (
            {"hyperparameters": {"learning_rate_multiplier": 900}},
            *request,
            "hyperparameters.learning_rate_multiplier",
        ),
        ({"hyperparameters": {"beta": 1}}, 400, "unknown_field", "hyperparameters.beta"),
        ({"hyperparameters": hyperparameters, "method": twice}, *request, "hyperparameters", "twice"),
        ({"epochs": 3}, 400, "unknown_field", "epochs"),
        ({"metadata": {"a": "\ud800"}}, *invalid, "metadata.a"),
        ({"metadata": {"\ud800": "a"}}, *invalid, "metadata"),
        ({"metadata": {"a": "b" * 513}}, *invalid, "metadata.a"),
        ({"metadata": {"a" * 65: "b"}}, *invalid, "metadata." + "a" * 65),
        ({"metadata": {str(i): "a" for i in range(17)}}, *invalid, "metadata"),
    )
    for call, says in (
        ("chat/completions", "there is no chat: models continue text and follow no instructions"),
        ("responses", "send the text to continue as `prompt` to POST /v1/completions"),
        ("embeddings", "POST /v1/models/{model}/score has the bits of each character"),
    ):
        for base in ("/v1", "/v1/models/fake/v1"):
            yield Refusal("POST", f"{base}/{call}", {"model": "fake"}, 404, "no_such_route", None, says)
    for path in ("", "/events", "/checkpoints"):
        yield get(f"/v1/fine_tuning/jobs/job_0000000000000{path}", 404, "job_not_found", "job")
    text = TEXT.encode()
    yield from form(
        "/v1/files",
        ({"file": ("a.txt", text)}, {}, *request, "purpose", "purpose is ''"),
        ({"file": ("a.txt", text)}, {"purpose": "vision"}, *request, "purpose", "fine-tune, evals"),
        ({"file": ("a.txt", text)}, {"purpose": "x" * 2000}, 400, "form_broken", "purpose", "longer than"),
        ({"other": ("a.txt", text)}, {"purpose": "evals"}, 400, "form_broken", "other", "named file"),
        ({"file": ("a.txt", b"")}, {"purpose": "evals"}, 400, "corpus_empty", "body"),
        ({"file": ("a.txt", b"\xff")}, {"purpose": "evals"}, 400, "corpus_not_utf8", "body"),
        ({"file": ("a.jsonl", text)}, {"purpose": "evals"}, 400, "invalid_file_format", "file", "line 1"),
    )
    yield from sent("/v1/files", "text/plain", (text, *request, "file", "multipart/form-data"))


ROOMS = (
    http,
    query_parameters,
    corpora,
    jobs,
    models,
    completions,
    scoring,
    calibration,
    logs,
    alerts,
    notifications,
    openai,
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Service]:
    """A service with three texts and two models, one of which is calibrated."""
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    settings = ApiSettings(
        data_dir=tmp_path_factory.mktemp("refusals"),
        redis_url=redis_url,
        port=0,
        max_corpus_bytes=MAX_CORPUS_BYTES,
        training_memory_bytes=TRAINING_MEMORY_BYTES,
        max_ingest_lines=1_000,
    )
    with serving(settings) as running:
        for name, text in (("fox", TEXT), ("three", TEXT * 3), ("small", "a" * (MINIMUM_CHARACTERS - 1))):
            assert running.http.post(f"/v1/corpora?name={name}", content=text.encode()).status_code == 201
        for name in ("fake", "calibrated"):
            publish(running.models, name=name, characters=CHARACTERS)
        lines = ["ab" * (1 + i % 9) for i in range(120)]
        answer = running.http.post("/v1/models/calibrated/calibrate", json={"lines": lines})
        assert answer.status_code == 201, answer.text
        yield running


def kept(service: Service) -> set[Path]:
    """All that is stored, but for the audit trail."""
    files = (path for path in service.settings.data_dir.rglob("*") if path.is_file())
    return {path for path in files if "audit" not in path.parts}


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(row, id=f"{room.__name__} {i}. {row.label}")
        for room in ROOMS
        for i, row in enumerate(room())
    ],
)
def test_request_is_refused_and_changes_nothing(service: Service, refusal: Refusal) -> None:
    before = kept(service)
    headers = {"content-type": JSON} if refusal.content is not None else {}
    answer = service.http.request(
        refusal.method, refusal.path, content=refusal.content, headers=headers | dict(refusal.headers)
    )
    error = error_of(answer, refusal.status)
    assert (error["code"], error["param"]) == (refusal.code, refusal.param)
    assert refusal.says in error["message"]
    assert "a" * 100 not in error["message"], "what was sent is not repeated"
    until(lambda: not service.spooled)
    assert kept(service) == before
    with Redis.from_url(service.settings.redis_url) as redis:
        assert not redis.exists(lines_key("calibrated"))
