"""A server with obvious answers in this process: no model, no storage, a clock instead of training."""

import contextlib
import hashlib
import json
import re
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from nextchar.app.corpora.schemas import EXAMPLE as CORPUS
from nextchar.app.jobs.schemas import EXAMPLE as JOB
from nextchar.app.models.schemas import EXAMPLE as MODEL
from nextchar.app.scoring.calibration_schemas import EXAMPLE_CALIBRATION, EXAMPLE_EVALUATION
from tests.http_server import QuietHTTPServer

FILES = {"model.keras": b"k" * 70_000, "model.onnx": b"o" * 5_000}
_LISTED = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in FILES.items()}
EXPERTS = {"mixture": 1.96, "lstm": 2.0, "ngram": 2.5, "without_matches": 1.98}
REPORT_PAGE = b"<!doctype html><title>fake</title>"
REPORT = {
    "object": "report",
    "network": {"architecture": "stateful_lstm", "layers": 1, "units": 256},
    "validation_bits_per_character": 2.25,
    "validation_turned_at_step": 1200,
    "epochs": 1.5,
    "curve": [
        {"step": 0, "validation_bits_per_character": 6.0, "train_bits_per_character": None},
        {"step": 2400, "validation_bits_per_character": 2.25, "train_bits_per_character": 2.0},
    ],
    "experts": {"mixture": 2.25, "lstm": 2.375, "ngram": 2.625, "without_matches": 2.3125},
    "mixture_weights": "learned",
    "baselines": {"unigram": 4.4, "ngram": 2.5, "xz": 2.75},
    "ngram_order": 5,
    "memorization": {
        "verdict": "copies",
        "generated": [
            {
                "temperature": 1.0,
                "novel": {"4": 0.25},
                "longest": 41,
                "copied": 0.125,
                "passages": [{"length": 41, "offset": 7, "text": "never\x1b[2J written"}],
            }
        ],
        "held_out": {"novel": {"4": 0.5}, "longest": 12, "copied": 0.0},
    },
    "cost": {
        "seconds": 59.2,
        "cores": 2,
        "characters": 715_776,
        "characters_per_second": 12_091,
        "peak_memory_bytes": 955_000_000,
    },
    "int8": {"lost_nats": 0.0002, "kept": True},
    "problems": ["the picture is missing"],
}
ANOMALOUS_BITS = 13.0
_WORDS = "qzxj vrkp the of the spirit and of the same things are in the world of men"


@dataclass
class FakeTraining:
    """A job whose life follows the clock; `evaluations` events of each kind are spread over it."""

    seconds: float = 0.4
    queued_s: float = 0.0
    evaluations: int = 4
    steps: int = 2400
    ends_as: str = "succeeded"
    name: str = "fake"
    begun_at: float = field(default_factory=time.monotonic)
    status_asked: str | None = None
    sample: Callable[[float], str] = lambda share: _WORDS[: 20 + int(share * 60)]
    more: dict[str, Any] = field(default_factory=dict)  # fields of the job

    is_seen: bool = False

    def passed_s(self) -> float:
        """Seconds since the beginning; of a job that is queued, since it was first seen in the queue."""
        if self.queued_s and not self.is_seen:
            self.is_seen, self.begun_at = True, time.monotonic()
        return time.monotonic() - self.begun_at

    def share(self) -> float:
        return min(1.0, max(0.0, (self.passed_s() - self.queued_s) / self.seconds))

    def status(self) -> str:
        if self.status_asked:
            return self.status_asked
        if self.passed_s() < self.queued_s:
            return "queued"
        return "running" if self.share() < 1 else self.ends_as

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [
            {"id": 1, "at": 0, "type": "message", "data": {"text": "the corpus is cut into 16 rows"}}
        ]
        for i in range(1, int(self.share() * self.evaluations) + 1):
            step = self.steps * i // self.evaluations
            data = {
                "step": step,
                "epoch": i / 2,
                **_losses(i / self.evaluations),
                "characters_per_second": 61200.0,
            }
            text = self.sample(i / self.evaluations)
            found.append({"id": 2 * i, "at": i, "type": "metrics", "data": data})
            found.append({"id": 2 * i + 1, "at": i, "type": "sample", "data": {"step": step, "text": text}})
        return found

    def job(self) -> dict[str, Any]:
        share, status = self.share(), self.status()
        progress = {
            "step": int(self.steps * share),
            "steps": self.steps if share > 0.05 else None,
            "epoch": 2.5 * share,
            "characters_per_second": 61200 if share > 0.02 else None,
            "seconds_left": self.seconds * (1 - share) if share > 0.05 else None,
            **_losses(share),
            "sample": None,
        }
        error = {"code": "diverged", "message": "the loss left all bounds"}
        budget = {"seconds": self.seconds, "steps": None, "epochs": None}
        return JOB | {
            "id": "job_1",
            "status": status,
            "name": self.name,
            "corpus": "corpus_1",
            "preset": None,
            "chosen_preset": None,
            "training": JOB["training"] | {"budget": budget},
            "queue_position": 2 if status == "queued" else None,
            "model": f"{self.name}@1" if status == "succeeded" else None,
            "progress": None if status == "queued" else progress,
            "error": error if status == "failed" else None,
            **self.more,
        }


def _losses(share: float) -> dict[str, float]:
    return {
        "train_bits_per_character": 6.5 * (1 - share) ** 2 + 1.9,
        "validation_bits_per_character": 6.3 * (1 - share) ** 2 + 2.1,
    }


class FakeServer:
    """Answers on a free port of the loopback interface between `with` and its end."""

    def __init__(self) -> None:
        self.training = FakeTraining()
        self.corpora: dict[str, dict[str, Any]] = {}
        self.permitted_names = "*"  # of corpora
        self.models = ["fake@2", "fake@1"]
        self.damaged_models: list[dict[str, str]] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []  # method, path, headers, body
        self.cut_streams_after: list[int] = []  # the n-th stream breaks after so many events
        self.end_fields: dict[str, Any] = {}  # more fields of score.end
        self.cut_scores_after: list[int | None] = []  # the n-th answer to lines breaks after so many of them
        self.queries: list[dict[str, str]] = []  # of requests that stream lines
        self.uploads: list[dict[str, str]] = []  # the queries of uploaded corpora
        self.invalid_field: tuple[str, str] | None = None  # of every POST: its name and the message
        self.refusals: list[int] = []  # HTTP statuses of the next answers to lines
        self.refused_jobs: list[int] = []  # HTTP statuses of the next answers about a job, but for the first
        self._jobs_asked = 0
        self.calibrations = ["validation"]
        self.imports: list[tuple[dict[str, str], bytes]] = []  # queries and archives
        self.is_ready = True
        self.degraded: list[dict[str, str]] = []
        self.damaged: set[str] = set()  # files that arrive changed
        self.page = 2  # the most things in a page: few, so that there are several pages
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def asks_again(self) -> bool:
        """Whether a job has been asked about before."""
        self._jobs_asked += 1
        return self._jobs_asked > 1

    def bodies(self, method: str, path: str) -> list[Any]:
        """Return the JSON bodies of all requests for one call."""
        return [json.loads(body) for m, p, _, body in self.requests if (m, p) == (method, path)]


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param


class _Server(QuietHTTPServer):
    fake: FakeServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    query: dict[str, str]
    body: bytes

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        """As the base class does, but one method answers all."""
        try:
            self.raw_requestline = self.rfile.readline(65537)
        except ConnectionResetError:  # the client has closed a connection that it no longer needs
            self.raw_requestline = b""
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self._answer()
        self.wfile.flush()

    @property
    def fake(self) -> FakeServer:
        return self.server.fake

    def _answer(self) -> None:
        address = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(address.query).items()}
        self.body = self._read_body()
        self.fake.requests.append((self.command, address.path, dict(self.headers), self.body))
        try:
            self._refuse_invalid()
            for method, pattern, answer in _ROUTES:
                if method == self.command and (match := re.fullmatch(pattern, address.path)):
                    answer(self, *map(unquote, match.groups()))
                    return
            self._raw(b"<html>nothing here</html>", status=404)
        except _Refused as refused:
            error = {"type": "invalid_request_error", "code": refused.code, "message": refused.message}
            self._json({"error": {**error, "param": refused.param}}, status=refused.status)

    def _refuse_invalid(self) -> None:
        if self.command == "POST" and (invalid := self.fake.invalid_field):
            param, message = invalid
            raise _Refused(422, "invalid_field", message, param)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while length := int(self.rfile.readline() or b"0", 16):  # nothing: the client has given up
            found += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def ready(self) -> None:
        if self.fake.is_ready:
            status = "degraded" if self.fake.degraded else "ready"
            self._json({"status": status, "down": [], "degraded": self.fake.degraded})
        else:
            self._json({"status": "not_ready", "down": ["redis"]}, status=503)

    def import_corpus(self) -> None:
        body = json.loads(self.body)
        self._json(_add_corpus(self.fake, body["url"].encode(), body.get("name")), status=201)

    def add_corpus(self) -> None:
        self.fake.uploads.append(self.query)
        corpus = _add_corpus(self.fake, self.body, self.query.get("name"))
        corpus |= {"kind": kind, "kind_reason": "chosen"} if (kind := self.query.get("kind")) else {}
        self._json(corpus, status=201)

    def corpora(self) -> None:
        self._page(list(self.fake.corpora.values()))

    def corpus(self, name: str) -> None:
        self._json(_corpus(self.fake, name))

    def change_corpus(self, name: str) -> None:
        corpus = _corpus(self.fake, name)
        corpus |= json.loads(self.body) | {"kind_reason": "chosen"}
        self._json(corpus)

    def delete_corpus(self, name: str) -> None:
        self._json({"id": _corpus(self.fake, name)["id"], "object": "corpus", "deleted": True})

    def create_job(self) -> None:
        self.fake.training.begun_at = time.monotonic()
        self.fake.training.name = json.loads(self.body)["name"]
        self._json(self.fake.training.job(), status=202)

    def jobs(self) -> None:
        self._page([self.fake.training.job()])

    def job(self, job: str, action: str | None = None) -> None:
        if job != "job_1":
            raise _Refused(404, "job_not_found", f"there is no job {job!r}")
        if self.fake.asks_again() and self.fake.refused_jobs:
            raise _Refused(self.fake.refused_jobs.pop(0), "busy", "the service is busy")
        if action == "resume":
            raise _Refused(409, "job_running", "job job_1 is running, not paused")
        if action:
            self.fake.training.status_asked = {"cancel": "cancelled", "pause": "paused"}[action]
        self._json(self.fake.training.job())

    def models(self) -> None:
        self._page([model_record(m) for m in self.fake.models], damaged=self.fake.damaged_models)

    def model(self, name: str) -> None:
        self._json(model_record(_resolve(self.fake, name)))

    def delete_model(self, name: str) -> None:
        model = _resolve(self.fake, name)
        self.fake.models.remove(model)
        self._json({"id": model, "object": "model", "deleted": True})

    def file(self, model: str, name: str) -> None:
        _resolve(self.fake, model)
        data = (
            json.dumps({"format_version": 1, "files": _LISTED}).encode()
            if name == "model.json"
            else FILES[name]
        )
        self._raw(data + (b"!" if name in self.fake.damaged else b""))

    def rename_model(self, name: str) -> None:
        model = _resolve(self.fake, name)
        renamed = f"{json.loads(self.body)['name']}@1"
        self.fake.models[self.fake.models.index(model)] = renamed
        self._json(model_record(renamed))

    def export_model(self, name: str) -> None:
        self._raw(f"archive of {_resolve(self.fake, name)}".encode())

    def pack_model(self, name: str) -> None:
        data = f"packed {_resolve(self.fake, name)} {self.query}".encode()
        if "limit_bytes" in self.query:  # the header, two sections, and what they say
            table = struct.pack("<IIQQIIQQ", 1, 0, 80, 24, 60, 0, 104, 16)
            data = bytes(12) + struct.pack("<I", 2) + bytes(16) + table + bytes(16)
            data += struct.pack("<IIdd", 300, 0, 700.0, 0.0123) + repr(self.query).encode()
        self._raw(data)

    def import_model(self) -> None:
        self.fake.imports.append((self.query, self.body))
        self._json(model_record(f"{self.query['name']}@1" if self.query else "fake@3"), status=201)

    def report(self, name: str) -> None:
        if self.query.get("format") == "json":
            self._json({**REPORT, "model": _resolve(self.fake, name)})
        else:
            self._raw(REPORT_PAGE)

    def next(self, name: str) -> None:
        model, body = _resolve(self.fake, name), json.loads(self.body)
        found = [{"character": c, "probability": p} for c, p in (("o", 0.9), (" ", 0.06), ("\n", 0.04))]
        answer = {"model": model, "entropy_bits": 0.57, "unknown_characters": []}
        self._json({"object": "distribution", **answer, "candidates": found[: body.get("top", 10)]})

    def suggest(self, name: str) -> None:
        model, body = _resolve(self.fake, name), json.loads(self.body)
        one = {"text": "Berlin", "probability": 0.9, "count": 3426354, "exists": True, "replaced": None}
        answer = {"id": "sug_1", "model": model, "prefix": body["prefix"]}
        self._json({"object": "suggestions", **answer, "suggestions": [{"id": "sug_1.0", **one}]})

    def score(self, name: str) -> None:
        if self.headers["Content-Type"].startswith("text/plain"):
            self._score_lines(_resolve(self.fake, name))
            return
        self._json(_score(_resolve(self.fake, name), json.loads(self.body)))

    def _score_lines(self, model: str) -> None:
        fake = self.fake
        if fake.refusals:
            raise _Refused(fake.refusals.pop(0), "busy", "there is much to do")
        fake.queries.append(self.query)
        cut = fake.cut_scores_after.pop(0) if fake.cut_scores_after else None
        calibration = _calibration(self.query.get("calibration", "validation"))
        lines = self.body.split(b"\n")[:-1]
        records = [_line_record(number, line, self.query) for number, line in enumerate(lines, 1)]
        reported = [r for r in records if r["anomalous"] or "not_utf8" in r or self.query["only"] == "all"]
        unusual = sum(r["p_value"] <= 0.1 for r in records)
        end = [{"object": "score.end", "lines": len(lines), "unusual": unusual, **fake.end_fields}]
        start = {"object": "score.start", "model": model, "false_alarms": 0.01, "threshold": 6.0}
        self._start_stream()
        for record in [
            start | {"calibration": calibration},
            *(reported + end if cut is None else reported[:cut]),
        ]:
            self.wfile.write(json.dumps(record).encode() + b"\n")

    def calibrate(self, name: str) -> None:
        _resolve(self.fake, name)
        body = json.loads(self.body)
        self.fake.calibrations.append(body.get("name", "default"))
        self._json(_calibration(self.fake.calibrations[-1]), status=201)

    def list_calibrations(self, name: str) -> None:
        _resolve(self.fake, name)
        self._json(
            {"object": "list", "data": list(map(_calibration, self.fake.calibrations)), "has_more": False}
        )

    def delete_calibration(self, _: str, name: str) -> None:
        self.fake.calibrations.remove(name)
        self._raw(b"", status=204)

    def forget_stream(self, *_: str) -> None:
        self._raw(b"", status=204)

    def evaluate(self, name: str) -> None:
        body = json.loads(self.body)
        self._json(_evaluation(_resolve(self.fake, name), body["lines"], body["anomalous"]))

    def complete(self, name: str) -> None:
        model, body = _resolve(self.fake, name), json.loads(self.body)
        if body.get("max_characters", 40) > 10_000:
            raise _Refused(422, "invalid_request", "max_characters: must be less than or equal to 10000")
        text = (body["prompt"][::-1] + "\x1b[2J")[: body.get("max_characters", 40)]  # the prompt backwards
        usage = {"prompt_characters": len(body["prompt"]), "cached_characters": 0}
        end = {
            "model": model,
            "usage": {**usage, "completion_characters": len(text)},
            "unknown_characters": [c for c in body["prompt"] if c == "€"],
        }
        finished = {"finish_reason": "length", "bits": 1.5}
        if not body.get("stream"):
            choices = [{"index": i, "text": text, **finished} for i in range(body.get("n", 1))]
            self._json({"object": "completion", "completions": choices, **end})
            return
        self._start_stream()
        for character in text:
            self._event("piece", {"index": 0, "text": character})
        self._event("finished", {"index": 0, "characters": len(text), **finished})
        self._event("done", end)

    def events(self) -> None:
        fake = self.fake
        cut = fake.cut_streams_after.pop(0) if fake.cut_streams_after else None
        after = int(self.headers.get("Last-Event-ID", 0))
        sent = 0
        self._start_stream()
        with contextlib.suppress(BrokenPipeError):
            while sent != cut:
                is_over = fake.training.status() in ("succeeded", "failed", "cancelled")
                for event in [e for e in fake.training.events() if e["id"] > after]:
                    if sent == cut:
                        return
                    self._event(event["type"], event)
                    after, sent = event["id"], sent + 1
                if is_over:
                    self._event("done", fake.training.job())
                    return
                time.sleep(0.01)

    def _start_stream(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def _event(self, kind: str, data: dict[str, Any]) -> None:
        number = f"id: {data['id']}\n" if isinstance(data.get("id"), int) else ""
        text = json.dumps(data, ensure_ascii=False)
        self.wfile.write(f": ping\n\n{number}event: {kind}\ndata: {text}\n\n".encode())
        self.wfile.flush()

    def _page(self, things: list[dict[str, Any]], **more: Any) -> None:
        after = self.query.get("after")
        begin = next((i + 1 for i, t in enumerate(things) if t["id"] == after), 0)
        end = begin + min(self.fake.page, int(self.query["limit"]))
        self._json({"object": "list", "data": things[begin:end], "has_more": end < len(things), **more})

    def _json(self, value: dict[str, Any], *, status: int = 200) -> None:
        self._raw(json.dumps(value).encode(), status=status)

    def _raw(self, data: bytes, *, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/readyz", _Handler.ready),
    ("POST", "/v1/corpora", _Handler.add_corpus),
    ("POST", "/v1/corpora/import", _Handler.import_corpus),
    ("GET", "/v1/corpora", _Handler.corpora),
    ("GET", "/v1/corpora/([^/]+)", _Handler.corpus),
    ("PATCH", "/v1/corpora/([^/]+)", _Handler.change_corpus),
    ("DELETE", "/v1/corpora/([^/]+)", _Handler.delete_corpus),
    ("POST", "/v1/jobs", _Handler.create_job),
    ("GET", "/v1/jobs", _Handler.jobs),
    ("GET", "/v1/jobs/([^/]+)", _Handler.job),
    ("GET", "/v1/jobs/job_1/events", _Handler.events),
    ("POST", "/v1/jobs/([^/]+)/(cancel|pause|resume)", _Handler.job),
    ("GET", "/v1/models", _Handler.models),
    ("GET", "/v1/models/([^/]+)", _Handler.model),
    ("DELETE", "/v1/models/([^/]+)", _Handler.delete_model),
    ("GET", "/v1/models/([^/]+)/files/([^/]+)", _Handler.file),
    ("PATCH", "/v1/models/([^/]+)", _Handler.rename_model),
    ("GET", "/v1/models/([^/]+)/export", _Handler.export_model),
    ("GET", "/v1/models/([^/]+)/pack", _Handler.pack_model),
    ("POST", "/v1/models/import", _Handler.import_model),
    ("GET", "/v1/models/([^/]+)/report", _Handler.report),
    ("POST", "/v1/models/([^/]+)/complete", _Handler.complete),
    ("POST", "/v1/models/([^/]+)/next", _Handler.next),
    ("POST", "/v1/models/([^/]+)/suggest", _Handler.suggest),
    ("POST", "/v1/models/([^/]+)/score", _Handler.score),
    ("POST", "/v1/models/([^/]+)/calibrate", _Handler.calibrate),
    ("GET", "/v1/models/([^/]+)/calibrations", _Handler.list_calibrations),
    ("DELETE", "/v1/models/([^/]+)/calibrations/([^/]+)", _Handler.delete_calibration),
    ("DELETE", "/v1/models/([^/]+)/streams/(.+)", _Handler.forget_stream),
    ("POST", "/v1/models/([^/]+)/evaluate", _Handler.evaluate),
]


def _add_corpus(fake: FakeServer, body: bytes, name: str | None) -> dict[str, Any]:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _Refused(422, "corpus_not_utf8", f"the text is not UTF-8 at offset {error.start}") from None
    digest = hashlib.sha256(body).hexdigest()
    if name and not fnmatch(name, fake.permitted_names):
        raise _Refused(403, "corpus_name_not_permitted", f"the corpus name {name!r} does not match")
    fake.corpora[digest] = CORPUS | {
        "id": f"corpus_{digest[:24]}",
        "name": name,
        "sha256": digest,
        "bytes": len(body),
        "characters": len(text),
        "distinct_characters": len(set(text)),
        "lines": text.count("\n"),
        "longest_line": max(map(len, text.split("\n"))),
        "sample": text[:300],
    }
    return fake.corpora[digest]


def _corpus(fake: FakeServer, name: str) -> dict[str, Any]:
    for corpus in fake.corpora.values():
        if name in (corpus["id"], corpus["name"]):
            return corpus
    raise _Refused(404, "corpus_not_found", f"there is no corpus {name!r}")


def _resolve(fake: FakeServer, name: str) -> str:
    for model in fake.models:
        if name in (model, model.partition("@")[0]):
            return model
    raise _Refused(404, "model_not_found", f"there is no model {name!r}")


def model_record(model: str) -> dict[str, Any]:
    name, _, version = model.partition("@")
    return MODEL | {
        "id": model,
        "name": name,
        "version": int(version),
        "aliases": [],
        "report": {"validation_bits_per_character": 1.96, "experts": EXPERTS},
        "files": _LISTED,
    }


def _bits(text: str) -> list[float]:
    """Capital letters and digits have a high surprisal, all else a low one."""
    return [ANOMALOUS_BITS if c.isupper() or c.isdigit() else 0.5 for c in text]


def _line_record(number: int, data: bytes, query: dict[str, str]) -> dict[str, Any]:
    """A character of high surprisal makes a line anomalous; `?` is expected in its place."""
    text = data.decode(errors="replace")
    bits = _bits(text)
    places = [i for i, cost in enumerate(bits) if cost == ANOMALOUS_BITS]
    record: dict[str, Any] = {"object": "score.line", "line": number, "offset": 0, "characters": len(text)}
    if "\ufffd" in text:
        record["not_utf8"] = {"offset": data.index(b"\xff"), "byte": "0xff"}
    record |= {"text": text, "p_value": 0.0005 if places else 0.5, "anomalous": bool(places)}
    if query["detail"] != "none":
        record["bits_per_character"] = sum(bits) / max(1, len(bits))
        record["spans"] = [
            {"start": i, "end": i + 1, "bits": ANOMALOUS_BITS, "expected": "?"} for i in places
        ]
    return record | ({"bits": bits} if query["detail"] == "character" else {})


def _calibration(name: str) -> dict[str, Any]:
    return EXAMPLE_CALIBRATION | {"name": name, "lines": 1999, "smallest_p_value": 0.0005}


def _evaluation(model: str, lines: list[str], anomalous: list[bool]) -> dict[str, Any]:
    def worst(*, is_anomalous: bool) -> list[dict[str, Any]]:
        found = [i for i, truth in enumerate(anomalous) if truth == is_anomalous][:2]
        more = {"score": 3.0, "p_value": 0.25}
        return [{"index": i, "text": lines[i], "bits": _bits(lines[i]), **more} for i in found]

    perfect: dict[str, Any] = {
        "auroc": 1.0,
        "average_precision": 1.0,
        "recall_at_false_alarms": {"0.001": 1.0, "0.01": 1.0, "0.05": 1.0},
        "roc": [[0, 0], [0, 1], [1, 1]],
    }
    poor = perfect | {"auroc": 0.5, "average_precision": 0.25, "roc": [[0, 0], [0.25, 0.25], [1, 1]]}
    return EXAMPLE_EVALUATION | {
        "model": model,
        "lines": len(lines),
        "anomalous": sum(anomalous),
        "model_score": perfect,
        "flagged": {"threshold": 6.0, "recall": 0.5, "precision": None, "false_alarm_rate": 0.125},
        "baselines": {"length": poor, "ngram_5": poor | {"auroc": 0.75}},
        "leaks": {"normal": 7, "anomalous": 0, "distinct": 3},
        "worst_misses": worst(is_anomalous=True),
        "worst_false_alarms": worst(is_anomalous=False),
    }


def _score(model: str, body: dict[str, Any]) -> dict[str, Any]:
    def line(text: str) -> dict[str, Any]:
        bits = _bits(text)
        mean = sum(bits) / len(bits) if bits else 0.0
        score: dict[str, Any] = {
            "characters": len(bits),
            "total_bits": sum(bits),
            "bits_per_character": mean,
            "bits": bits,
        }
        if count := body.get("expected"):
            score["expected"] = [[{"character": "e", "probability": 0.75}][:count] for _ in text]
        return score

    whole = line(body["text"] if "text" in body else "".join(body["lines"]))
    lines = [line(text) for text in body["lines"]] if "lines" in body else None
    bits = whole["bits"] if lines is None else None
    return {
        "object": "score",
        "model": model,
        **whole,
        "bits": bits,
        "lines": lines,
        "unknown_characters": [],
    }
