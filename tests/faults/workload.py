"""Clients of a fault round: they send until they are stopped, and record what was acknowledged or wrong.

An answer is right, or it says that the service does not work for now (429, 503, 507, or no answer at all).
Anything else is a violation, and so is every right-looking answer with another content than expected.
"""

import contextlib
import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
MODEL = "/v1/models/real"
CITIES = "/v1/models/cities"
LINES_OF_CITIES = {"london": 9, "lodz": 1}
COUNTED = "lodz"  # the line whose count is added to
RATE = "0.05"
LINES = 40_000  # numbers of lines that may be ingested
TRANSIENT = (429, 503, 507)
CHARACTERS = 40
BATCH = 20
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SLOW_PAUSE_S = 1.5  # of those that make records
_PAUSE_S = 0.4  # of each client between two calls
_COMPLETION = {"prompt": "the quick ", "max_characters": CHARACTERS, "seed": 3}


def line(number: int) -> str:
    """Return a line that no other is like; each fifth has characters that the model does not know."""
    name = "".join(_LETTERS[number // 26**i % 26] for i in range(4))
    return name + ("→" * 40 if number % 5 == 0 else "abcdefgh")


@dataclass
class Ledger:
    """What the service has acknowledged, over all rounds."""

    corpora: dict[str, str] = field(default_factory=dict)  # id -> SHA-256
    jobs: dict[str, str] = field(default_factory=dict)  # id -> corpus
    calibrations: dict[str, int] = field(default_factory=dict)  # name -> lines
    labels: dict[str, str] = field(default_factory=dict)  # alert -> label
    stream_lines: int = 0
    uncertain_stream_lines: int = 0
    lines: set[int] = field(default_factory=set)  # ingested, by their numbers, since Redis was last emptied
    next_line: int = 0
    told: int = 0  # batches of events of suggestions
    sent_counts: int = 0  # each was the count of a line, in turn
    last_count: int = 0  # that was acknowledged
    counts: set[int] = field(default_factory=lambda: {0})  # that it may have: that one, or uncertain ones
    calls: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


class Workload:
    """Threads of clients of one installation."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.url, self.ledger = url, ledger
        self.damaged: Callable[[], str | None] = lambda: None
        self.loses_redis: Callable[[], bool] = lambda: False
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._number = itertools.count()
        self._counting = threading.Lock()
        self._run = hashlib.sha256(url.encode()).hexdigest()[:8]
        self.completion = ""  # what the seeded completion is
        self.bits: list[float] = []  # of the scored lines

    def prepare(self) -> None:
        """Note what right answers are, while nothing is broken yet."""
        with self._client() as http:
            answer = http.post(f"{MODEL}/complete", json=_COMPLETION)
            assert answer.status_code == 200, answer.text
            self.completion = answer.json()["completions"][0]["text"]
            self.bits = self._bits(http.post(f"{MODEL}/score", json={"lines": [line(i) for i in range(8)]}))
            lines = [line(i) for i in range(1, 2_000) if i % 5]
            made = http.post(f"{MODEL}/calibrate", json={"lines": lines})
            assert made.status_code == 201, made.text

    def start(self, job_steps: int | None) -> None:
        """Start all clients; with `job_steps` one sends a job of so many."""
        self._stopping.clear()
        self._threads = [
            threading.Thread(target=self._repeat, args=(client,), daemon=True)
            for client in (
                self.complete,
                self.stream_completion,
                self.score,
                self.score_lines,
                self.continue_stream,
                self.ingest,
                self.tell,
                self.count,
                self.suggest,
                self.upload,
                self.calibrate,
                self.label,
                self.read,
            )
        ]
        if job_steps:
            self._threads.append(threading.Thread(target=self.submit, args=(job_steps,), daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float = 60.0) -> None:
        """Let every client end its call."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(within_s)
            if thread.is_alive():
                self.ledger.violations.append(f"a client hangs: {thread}")

    def _repeat(self, client: Callable[[httpx.Client], None]) -> None:
        with self._client() as http:
            pause_s = _SLOW_PAUSE_S if client.__name__ in ("upload", "calibrate", "label") else _PAUSE_S
            while not self._stopping.wait(pause_s):
                self.attempt(client, http)

    def attempt(self, client: Callable[[httpx.Client], None], http: httpx.Client) -> bool:
        """Make one call; return whether it was answered as it should be."""
        name = client.__name__
        self.ledger.calls[name] += 1
        try:
            client(http)
        except (httpx.TransportError, _Refused):
            self.ledger.refused[name] += 1
            return False
        except (_Wrong, KeyError, ValueError) as error:
            self.ledger.violations.append(f"{name}: {type(error).__name__}: {error}")
            return False
        return True

    def client(self) -> httpx.Client:
        return self._client()

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20)

    def complete(self, http: httpx.Client) -> None:
        body = _ok(http.post(f"{MODEL}/complete", json=_COMPLETION)).json()
        _expect(body["completions"][0]["text"], self.completion, "a completion")

    def stream_completion(self, http: httpx.Client) -> None:
        text, is_whole = "", False
        with http.stream("POST", f"{MODEL}/complete", json=_COMPLETION | {"stream": True}) as answer:
            if answer.status_code != 200:
                answer.read()
            for data in _ok(answer).iter_lines():
                if data.startswith("data: ") and "[DONE]" not in data:
                    piece = json.loads(data.removeprefix("data: "))
                    text += piece.get("text", "")
                    is_whole |= bool(piece.get("finish_reason")) or "usage" in piece
        if not self.completion.startswith(text) or (is_whole and text != self.completion):
            raise _Wrong(f"a streamed completion: {text!r} instead of {self.completion!r}")

    def score(self, http: httpx.Client) -> None:
        answer = http.post(f"{MODEL}/score", json={"lines": [line(i) for i in range(8)]})
        bits = self._bits(answer)
        if any(abs(a - b) > 1e-3 for a, b in zip(bits, self.bits, strict=True)):
            raise _Wrong(f"scores: {bits} instead of {self.bits}")

    def _bits(self, answer: httpx.Response) -> list[float]:
        return [float(one["total_bits"]) for one in _ok(answer).json()["lines"]]

    def score_lines(self, http: httpx.Client) -> None:
        body = "".join(line(i) + "\n" for i in range(50))
        headers = {"Content-Type": "text/plain"}
        answer = _ok(http.post(f"{MODEL}/score", content=body.encode(), headers=headers))
        records = [json.loads(one) for one in answer.text.splitlines()]
        if records[-1]["object"] == "score.end":
            _expect(records[-1]["lines"], 50, "the lines of a stream")
            _expect(len(records), 52, "the records of a stream")

    def continue_stream(self, http: httpx.Client) -> None:
        ledger = self.ledger
        body = {"lines": [line(0)], "context": "stream", "stream_id": f"stream-{self._run}"}
        try:
            answer = http.post(f"{MODEL}/score", json=body)
        except httpx.TransportError:
            ledger.uncertain_stream_lines += 1
            raise
        if answer.status_code != 200:  # it may have failed while the position was saved
            ledger.uncertain_stream_lines += 1
        stream = _ok(answer).json()["stream"]
        if self.loses_redis() and stream["restarted"] == "new":
            ledger.stream_lines, ledger.uncertain_stream_lines = 0, 0
        least = ledger.stream_lines + 1
        if not least <= stream["lines"] <= least + ledger.uncertain_stream_lines:
            raise _Wrong(
                f"a stream of lines is at {stream}, after {ledger.stream_lines} acknowledged lines and"
                f" {ledger.uncertain_stream_lines} uncertain ones"
            )
        ledger.stream_lines, ledger.uncertain_stream_lines = stream["lines"], 0

    def ingest(self, http: httpx.Client) -> None:
        first = self.ledger.next_line
        numbers = range(first, first + BATCH)
        body = "".join(json.dumps(line(i)) + "\n" for i in numbers)
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f"batch {first}"}
        params = {"false_alarms": RATE}
        answer = http.post(f"{MODEL}/ingest", content=body.encode(), headers=headers, params=params)
        _expect(_ok(answer, 202).json()["accepted"], BATCH, "accepted lines")
        self.ledger.lines |= set(numbers)
        self.ledger.next_line = first + BATCH

    def tell(self, http: httpx.Client) -> None:
        """Send events of suggestions: those of the next batch, with the same ids until they are counted."""
        batch = self.ledger.told
        ids = [f"{batch}.{n}" for n in range(BATCH)]
        events = [{"id": one, "type": "shown", "suggestion_id": one, "model": "real@1"} for one in ids]
        counts = _ok(http.post("/v1/events", json={"events": events}), 202).json()
        _expect(counts["accepted"] + counts["duplicates"], BATCH, "events")
        self.ledger.told = max(self.ledger.told, batch + 1)  # two threads may have sent the same

    def count(self, http: httpx.Client) -> None:
        """Replace the count that was added to a line by the next number."""
        with self._counting:
            number = self.ledger.sent_counts = self.ledger.sent_counts + 1
            self.ledger.counts.add(number)
            lines = [{"text": COUNTED, "count": number}]
            body = {"source": "faults", "half_life_days": None, "lines": lines}
            _ok(
                http.put(f"{CITIES}/counts", json=body)
            )  # else it may be stored, even after those that follow
            self.ledger.counts.discard(self.ledger.last_count)
            self.ledger.last_count = number

    def suggest(self, http: httpx.Client) -> None:
        suggestions = _ok(http.post(f"{CITIES}/suggest", json={"prefix": "lo"})).json()["suggestions"]
        found = {one["text"]: one["count"] for one in suggestions}
        added = found.get(COUNTED, 0) - LINES_OF_CITIES[COUNTED]
        if not 0 <= added <= self.ledger.sent_counts:
            raise _Wrong(f"{added} counts of {self.ledger.sent_counts}")
        _expect(found | {COUNTED: LINES_OF_CITIES[COUNTED]}, LINES_OF_CITIES, "suggestions")

    def upload(self, http: httpx.Client) -> None:
        text = f"{self._run} {next(self._number)}\n{TEXT}"
        body = _ok(http.post("/v1/corpora", content=text.encode()), 201, 200).json()
        self.ledger.corpora[body["id"]] = hashlib.sha256(text.encode()).hexdigest()

    def submit(self, steps: int) -> None:
        """Send a corpus and a job, each until it is accepted."""
        key = f"job {self._run} {next(self._number)}"
        with self._client() as http:
            while not self._stopping.is_set():
                with contextlib.suppress(httpx.TransportError, _Refused):
                    self.submit_once(http, key, steps)
                    return
                self._stopping.wait(_PAUSE_S)

    def submit_once(self, http: httpx.Client, key: str, steps: int) -> str:
        """Send a corpus and a job with an idempotency key; return the id of the accepted job."""
        corpus = _ok(http.post("/v1/corpora", content=TEXT.encode()), 201, 200).json()["id"]
        self.ledger.corpora[corpus] = hashlib.sha256(TEXT.encode()).hexdigest()
        body = {
            "corpus": corpus,
            "name": "fox",
            "preset": "tiny",
            "budget": {"steps": steps},
            "network": {"units": 16, "embedding": 8},
        }
        answer = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
        try:
            job = _ok(answer, 202, 200).json()["id"]
        except _Wrong as error:
            self.ledger.violations.append(f"submit: {error}")
            raise _Refused from error
        self.ledger.jobs[job] = corpus
        return str(job)

    def calibrate(self, http: httpx.Client) -> None:
        count = 100 + next(self._number) % 50
        body = {"name": f"c{count}", "lines": [line(i) for i in range(count)]}
        made = _ok(http.post(f"{MODEL}/calibrate", json=body), 201).json()
        _expect(made["lines"], count, "the lines of a calibration")
        self.ledger.calibrations[body["name"]] = count

    def label(self, http: httpx.Client) -> None:
        alerts = _ok(http.get(f"{MODEL}/alerts")).json()["data"]
        for alert in alerts[:3]:
            path = f"{MODEL}/alerts/{alert['id']}/label"
            answer = http.post(path, json={"label": "incident"})
            if answer.status_code != 404:  # Redis was emptied in between
                self.ledger.labels[alert["id"]] = _ok(answer).json()["label"]

    def read(self, http: httpx.Client) -> None:
        """List everything, and read one corpus that was acknowledged."""
        known, sent = list(self.ledger.corpora.items()), set(self.ledger.jobs)
        corpora = {c["id"] for c in _ok(http.get("/v1/corpora?limit=1000")).json()["data"]}
        jobs = {j["id"] for j in _ok(http.get("/v1/jobs?limit=1000")).json()["data"]}
        models = [m["id"] for m in _ok(http.get("/v1/models?limit=1000")).json()["data"]]
        if self.damaged():
            return
        if missing := {corpus for corpus, _ in known} - corpora:
            raise _Wrong(f"acknowledged corpora are not listed: {missing}")
        if missing := sent - jobs:
            raise _Wrong(f"acknowledged jobs are not listed: {missing}")
        if known:
            corpus, sha256 = known[next(self._number) % len(known)]
            text = _ok(http.get(f"/v1/corpora/{corpus}/text")).content
            _expect(hashlib.sha256(text).hexdigest(), sha256, f"the text of {corpus}")
        if models:
            _ok(http.get(f"/v1/models/{models[next(self._number) % len(models)]}"))


class _Refused(Exception):
    """The service said that it does not work for now."""


class _Wrong(Exception):
    """The service said something that it must not."""


def _ok(answer: httpx.Response, *statuses: int) -> httpx.Response:
    """Return an answer with one of these statuses (200). Raises _Refused, or _Wrong."""
    if answer.status_code in (statuses or (200,)):
        return answer
    if answer.status_code in TRANSIENT:
        raise _Refused(answer.text)
    raise _Wrong(
        f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:500]}"
    )


def _expect(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise _Wrong(f"{what}: {found!r} instead of {expected!r}")
