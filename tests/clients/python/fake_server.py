"""A server with obvious answers in this process: no model, no storage, a clock instead of training."""

import asyncio
import contextlib
import hashlib
import json
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from nextchar.app.corpora.schemas import EXAMPLE as CORPUS
from nextchar.app.jobs.schemas import EXAMPLE as JOB
from nextchar.app.models.schemas import EXAMPLE as MODEL
from nextchar.app.scoring.calibration_schemas import EXAMPLE_CALIBRATION, EXAMPLE_EVALUATION
from tests.app.service import run_in_thread

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


@dataclass
class _Call:
    """A request: its query, its headers and its body."""

    query: dict[str, str]
    headers: Headers
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": param}
        self.response = JSONResponse({"error": error}, status)


_ROUTES: list[tuple[str, str, Callable[..., Any]]] = []


def _answers(method: str, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a method of the fake as what answers a call: with JSON, or with a whole response."""

    def add(answer: Callable[..., Any]) -> Callable[..., Any]:
        _ROUTES.append((method, path, answer))
        return answer

    return add


class FakeServer:
    """Answers on a free port of the loopback interface between `with` and its end."""

    def __init__(self) -> None:
        self.training = FakeTraining()
        self.corpora: dict[str, dict[str, Any]] = {}
        self.permitted_names = "*"  # of corpora
        self.models = ["fake@2", "fake@1"]
        self.damaged_models: list[dict[str, str]] = []
        self.requests: list[tuple[str, str, Headers, bytes]] = []  # method, path, headers, body
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
        self.url = ""
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        routes = [Route(path, self._endpoint(answer), methods=[method]) for method, path, answer in _ROUTES]
        app = Starlette(routes=routes)
        config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=0)
        self.url = self._running.enter_context(run_in_thread(config, stopping=threading.Event()))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def bodies(self, method: str, path: str) -> list[Any]:
        """Return the JSON bodies of all requests for one call."""
        return [json.loads(body) for m, p, _, body in self.requests if (m, p) == (method, path)]

    def _endpoint(self, answer: Callable[..., Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            call = _Call(dict(request.query_params), request.headers, await request.body())
            self.requests.append((request.method, request.url.path, call.headers, call.body))
            if request.method == "POST" and self.invalid_field:
                param, message = self.invalid_field
                return _Refused(422, "invalid_field", message, param).response
            try:
                found = await run_in_threadpool(answer, self, call, **request.path_params)
            except _Refused as refused:
                return refused.response
            return found if isinstance(found, Response) else JSONResponse(found)

        return endpoint

    def _page(self, call: _Call, things: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        after = call.query.get("after")
        begin = next((i + 1 for i, t in enumerate(things) if t["id"] == after), 0)
        end = begin + min(self.page, int(call.query["limit"]))
        return {"object": "list", "data": things[begin:end], "has_more": end < len(things), **more}

    def _resolve(self, name: str) -> str:
        for model in self.models:
            if name in (model, model.partition("@")[0]):
                return model
        raise _Refused(404, "model_not_found", f"there is no model {name!r}")

    def _corpus(self, name: str) -> dict[str, Any]:
        for corpus in self.corpora.values():
            if name in (corpus["id"], corpus["name"]):
                return corpus
        raise _Refused(404, "corpus_not_found", f"there is no corpus {name!r}")

    def _added(self, body: bytes, name: str | None) -> dict[str, Any]:
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            message = f"the text is not UTF-8 at offset {error.start}"
            raise _Refused(422, "corpus_not_utf8", message) from None
        digest = hashlib.sha256(body).hexdigest()
        if name and not fnmatch(name, self.permitted_names):
            raise _Refused(403, "corpus_name_not_permitted", f"the corpus name {name!r} does not match")
        self.corpora[digest] = CORPUS | {
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
        return self.corpora[digest]

    @_answers("GET", "/readyz")
    def _ready(self, _: _Call) -> Any:
        if self.is_ready:
            status = "degraded" if self.degraded else "ready"
            return {"status": status, "down": [], "degraded": self.degraded}
        return JSONResponse({"status": "not_ready", "down": ["redis"]}, 503)

    @_answers("POST", "/v1/corpora/import")
    def _import_corpus(self, call: _Call) -> Any:
        return self._added(call.json["url"].encode(), call.json.get("name"))

    @_answers("POST", "/v1/corpora")
    def _add_corpus(self, call: _Call) -> Any:
        self.uploads.append(call.query)
        corpus = self._added(call.body, call.query.get("name"))
        corpus |= {"kind": kind, "kind_reason": "chosen"} if (kind := call.query.get("kind")) else {}
        return corpus

    @_answers("GET", "/v1/corpora")
    def _list_corpora(self, call: _Call) -> Any:
        return self._page(call, list(self.corpora.values()))

    @_answers("GET", "/v1/corpora/{name}")
    def _get_corpus(self, _: _Call, name: str) -> Any:
        return self._corpus(name)

    @_answers("PATCH", "/v1/corpora/{name}")
    def _change_corpus(self, call: _Call, name: str) -> Any:
        corpus = self._corpus(name)
        corpus |= call.json | {"kind_reason": "chosen"}
        return corpus

    @_answers("DELETE", "/v1/corpora/{name}")
    def _delete_corpus(self, _: _Call, name: str) -> Any:
        return {"id": self._corpus(name)["id"], "object": "corpus", "deleted": True}

    @_answers("POST", "/v1/jobs")
    def _create_job(self, call: _Call) -> Any:
        self.training.begun_at = time.monotonic()
        self.training.name = call.json["name"]
        return self.training.job()

    @_answers("GET", "/v1/jobs")
    def _list_jobs(self, call: _Call) -> Any:
        return self._page(call, [self.training.job()])

    @_answers("GET", "/v1/jobs/{job}")
    @_answers("POST", "/v1/jobs/{job}/{action}")
    def _job(self, _: _Call, job: str, action: str | None = None) -> Any:
        if job != "job_1":
            raise _Refused(404, "job_not_found", f"there is no job {job!r}")
        self._jobs_asked += 1
        if self._jobs_asked > 1 and self.refused_jobs:
            raise _Refused(self.refused_jobs.pop(0), "busy", "the service is busy")
        if action == "resume":
            raise _Refused(409, "job_running", "job job_1 is running, not paused")
        if action:
            self.training.status_asked = {"cancel": "cancelled", "pause": "paused"}[action]
        return self.training.job()

    @_answers("GET", "/v1/jobs/job_1/events")
    def _events(self, call: _Call) -> Any:
        cut = self.cut_streams_after.pop(0) if self.cut_streams_after else None
        return _stream(self._events_after(int(call.headers.get("Last-Event-ID", 0)), cut))

    async def _events_after(self, after: int, cut: int | None) -> AsyncIterator[str]:
        sent = 0
        while sent != cut:
            is_over = self.training.status() in ("succeeded", "failed", "cancelled")
            for event in [e for e in self.training.events() if e["id"] > after]:
                if sent == cut:
                    return
                yield _event(event["type"], event)
                after, sent = event["id"], sent + 1
            if is_over:
                yield _event("done", self.training.job())
                return
            await asyncio.sleep(0.01)

    @_answers("GET", "/v1/models")
    def _list_models(self, call: _Call) -> Any:
        return self._page(call, list(map(model_record, self.models)), damaged=self.damaged_models)

    @_answers("GET", "/v1/models/{name}")
    def _model(self, _: _Call, name: str) -> Any:
        return model_record(self._resolve(name))

    @_answers("DELETE", "/v1/models/{name}")
    def _delete_model(self, _: _Call, name: str) -> Any:
        model = self._resolve(name)
        self.models.remove(model)
        return {"id": model, "object": "model", "deleted": True}

    @_answers("GET", "/v1/models/{model}/files/{name}")
    def _file(self, _: _Call, model: str, name: str) -> Any:
        self._resolve(model)
        card = json.dumps({"format_version": 1, "files": _LISTED}).encode()
        data = card if name == "model.json" else FILES[name]
        return Response(data + (b"!" if name in self.damaged else b""))

    @_answers("PATCH", "/v1/models/{name}")
    def _rename_model(self, call: _Call, name: str) -> Any:
        renamed = f"{call.json['name']}@1"
        self.models[self.models.index(self._resolve(name))] = renamed
        return model_record(renamed)

    @_answers("GET", "/v1/models/{name}/export")
    def _export_model(self, _: _Call, name: str) -> Any:
        return Response(f"archive of {self._resolve(name)}")

    @_answers("GET", "/v1/models/{name}/pack")
    def _pack_model(self, call: _Call, name: str) -> Any:
        data = f"packed {self._resolve(name)} {call.query}".encode()
        if "limit_bytes" in call.query:  # the header, two sections, and what they say
            table = struct.pack("<IIQQIIQQ", 1, 0, 80, 24, 60, 0, 104, 16)
            data = bytes(12) + struct.pack("<I", 2) + bytes(16) + table + bytes(16)
            data += struct.pack("<IIdd", 300, 0, 700.0, 0.0123) + repr(call.query).encode()
        return Response(data)

    @_answers("POST", "/v1/models/import")
    def _import_model(self, call: _Call) -> Any:
        self.imports.append((call.query, call.body))
        return model_record(f"{call.query['name']}@1" if call.query else "fake@3")

    @_answers("GET", "/v1/models/{name}/report")
    def _report(self, call: _Call, name: str) -> Any:
        is_json = call.query.get("format") == "json"
        return {**REPORT, "model": self._resolve(name)} if is_json else Response(REPORT_PAGE)

    @_answers("POST", "/v1/models/{name}/next")
    def _next(self, call: _Call, name: str) -> Any:
        found = [{"character": c, "probability": p} for c, p in (("o", 0.9), (" ", 0.06), ("\n", 0.04))]
        answer = {"model": self._resolve(name), "entropy_bits": 0.57, "unknown_characters": []}
        return {"object": "distribution", **answer, "candidates": found[: call.json.get("top", 10)]}

    @_answers("POST", "/v1/models/{name}/suggest")
    def _suggest(self, call: _Call, name: str) -> Any:
        one = {"text": "Berlin", "probability": 0.9, "count": 3426354, "exists": True, "replaced": None}
        answer = {"id": "sug_1", "model": self._resolve(name), "prefix": call.json["prefix"]}
        return {"object": "suggestions", **answer, "suggestions": [{"id": "sug_1.0", **one}]}

    @_answers("POST", "/v1/models/{name}/score")
    def _score(self, call: _Call, name: str) -> Any:
        model = self._resolve(name)
        if not call.headers["Content-Type"].startswith("text/plain"):
            return _score(model, call.json)
        if self.refusals:
            raise _Refused(self.refusals.pop(0), "busy", "there is much to do")
        self.queries.append(call.query)
        cut = self.cut_scores_after.pop(0) if self.cut_scores_after else None
        calibration = _calibration(call.query.get("calibration", "validation"))
        lines = call.body.split(b"\n")[:-1]
        records = [_line_record(number, line, call.query) for number, line in enumerate(lines, 1)]
        reported = [r for r in records if r["anomalous"] or "not_utf8" in r or call.query["only"] == "all"]
        unusual = sum(r["p_value"] <= 0.1 for r in records)
        end = [{"object": "score.end", "lines": len(lines), "unusual": unusual, **self.end_fields}]
        start = {"object": "score.start", "model": model, "false_alarms": 0.01, "threshold": 6.0}
        sent = [start | {"calibration": calibration}, *(reported + end if cut is None else reported[:cut])]
        return _stream(json.dumps(record) + "\n" for record in sent)

    @_answers("POST", "/v1/models/{name}/calibrate")
    def _calibrate(self, call: _Call, name: str) -> Any:
        self._resolve(name)
        self.calibrations.append(call.json.get("name", "default"))
        return _calibration(self.calibrations[-1])

    @_answers("GET", "/v1/models/{name}/calibrations")
    def _list_calibrations(self, _: _Call, name: str) -> Any:
        self._resolve(name)
        return {"object": "list", "data": list(map(_calibration, self.calibrations)), "has_more": False}

    @_answers("DELETE", "/v1/models/{model}/calibrations/{name}")
    def _delete_calibration(self, _: _Call, model: str, name: str) -> Any:
        self._resolve(model)
        self.calibrations.remove(name)
        return Response(status_code=204)

    @_answers("DELETE", "/v1/models/{model}/streams/{stream:path}")
    def _forget_stream(self, _: _Call, **__: str) -> Any:
        return Response(status_code=204)

    @_answers("POST", "/v1/models/{name}/evaluate")
    def _evaluate(self, call: _Call, name: str) -> Any:
        return _evaluation(self._resolve(name), call.json["lines"], call.json["anomalous"])

    @_answers("POST", "/v1/models/{name}/complete")
    def _complete(self, call: _Call, name: str) -> Any:
        model, body = self._resolve(name), call.json
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
            return {"object": "completion", "completions": choices, **end}
        pieces = [_event("piece", {"index": 0, "text": character}) for character in text]
        last = _event("finished", {"index": 0, "characters": len(text), **finished})
        return _stream([*pieces, last, _event("done", end)])


def _stream(pieces: Iterable[str] | AsyncIterator[str]) -> Response:
    return StreamingResponse(pieces, media_type="text/event-stream")


def _event(kind: str, data: dict[str, Any]) -> str:
    number = f"id: {data['id']}\n" if isinstance(data.get("id"), int) else ""
    return f": ping\n\n{number}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


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
