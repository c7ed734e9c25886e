"""What must be true of an installation after a fault: nothing acknowledged is lost or was done twice."""

import contextlib
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import httpx

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.decisions import AlertDecisions
from nextchar.models.errors import DomainError, NotFound, Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.jobs import TRANSITIONS, Job, JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.faults.installation import Installation
from tests.faults.workload import BATCH, CITIES, COUNTED, LINES_OF_CITIES, MODEL, RATE, Ledger, line

WEIGHTS = "model.onnx"


class Checker:
    """Compares an installation with what it has acknowledged."""

    def __init__(self, installation: Installation, ledger: Ledger) -> None:
        self.installation, self.ledger = installation, ledger
        self.blobs: Blobs = open_blobs(installation.store.as_uri())
        self.weights: str | None = None  # of the first model; with one seed and corpus all have these bits
        self.may_fail: set[str] = set()  # jobs that a damaged file may have ended
        self.sent_keys = 0
        self._flagged = 0  # ingested lines that scoring flags
        self._counted: set[int] = set()  # lines that are in `_flagged`
        self._occurrences_before = 0  # when Redis was last emptied
        self._told_before = self._shown_before = 0  # the same for batches of events, and what they count

    def violations(self) -> Iterator[str]:
        """Yield what is wrong, once the installation is quiet."""
        yield from self._corpora()
        yield from self._jobs()
        yield from self._models()
        yield from self._calibrations()
        yield from self._labels()
        yield from self._lines()
        yield from self._events()
        yield from self._counts()

    def forget_lines(self) -> None:
        """Redis is known to have lost what was in it: lines that waited, and the figures of alerts."""
        self.ledger.lines.clear()
        self._counted.clear()
        self._flagged = 0
        with self.installation.redis() as redis:
            self._occurrences_before = sum(Alerts(redis, self.blobs).totals()[0].values())

        self.ledger.told += 1  # the batch that is not acknowledged may have been counted before the loss
        self._told_before, self._shown_before = self.ledger.told, self._shown()

    def _events(self) -> Iterator[str]:
        """Compare the suggestions that count as shown with the acknowledged events."""
        told = BATCH * (self.ledger.told - self._told_before)
        shown = self._shown() - self._shown_before
        if not told <= shown <= told + BATCH:  # of the last batch, the response may have been lost
            yield f"{shown} suggestions count as shown, of {told} whose events were acknowledged"

    def _counts(self) -> Iterator[str]:
        """Compare the count that was added to a line with those that were sent, and suggestions with it."""
        with self._client() as http:
            stored = {one["text"]: int(one["count"]) for one in http.get(f"{CITIES}/counts").json()["lines"]}
            added = stored.get(COUNTED, 0)
            if added not in self.ledger.counts:
                yield f"{added} was counted, and not {self.ledger.last_count} or later"
            expected, found = LINES_OF_CITIES[COUNTED] + added, 0
            deadline = time.monotonic() + 10
            while found != expected and time.monotonic() < deadline:
                answer = http.post(f"{CITIES}/suggest", json={"prefix": COUNTED}).json()
                found = answer["suggestions"][0]["count"]
            if found != expected:
                yield f"suggestions follow {found} counts instead of {expected}"

    def _shown(self) -> int:
        with self._client() as http:
            return int(http.get(f"{MODEL}/acceptance").json()["total"]["shown"])

    def _corpora(self) -> Iterator[str]:
        corpora = Corpora(self.blobs)
        for corpus, sha256 in list(self.ledger.corpora.items()):
            digest = hashlib.sha256()
            try:
                for chunk in corpora.stream(corpus):
                    digest.update(chunk)
            except DomainError as error:
                yield f"corpus {corpus} is lost: {error}"
            else:
                if digest.hexdigest() != sha256:
                    yield f"corpus {corpus} has another text"

    def _jobs(self) -> Iterator[str]:
        by_job = Counter(card.job for card in Models(self.blobs).all() if card.job)
        records = self._records()
        for job in self.ledger.jobs.keys() - records.keys():
            yield f"job {job} is lost"
        if len(records) > self.sent_keys:
            yield f"{len(records)} jobs of {self.sent_keys} idempotency keys: {sorted(records)}"
        for job, states in records.items():
            for before, after in pairwise(states):
                if after.sequence != before.sequence + 1 or after.status not in TRANSITIONS[before.status]:
                    states_of = [f"{one.sequence} {one.status}" for one in (before, after)]
                    yield f"{job} went from {states_of[0]} to {states_of[1]}"
                is_new_attempt = before.status is JobStatus.QUEUED and after.status is JobStatus.RUNNING
                if after.attempt != before.attempt + is_new_attempt:
                    yield f"{job} went from attempt {before.attempt} to {after.attempt}"
            last = states[-1]
            if not last.status.is_final:
                yield f"{job} does not end: {last.status} {last.pause_reason}"
            if last.status is JobStatus.FAILED and job not in self.may_fail:
                yield f"{job} failed: {last.error}"
            if by_job[job] != (last.status is JobStatus.SUCCEEDED):
                yield f"{job} is {last.status} and has {by_job[job]} models"

    def _records(self) -> dict[str, list[Job]]:
        """Return all records of all jobs, oldest first."""
        records: dict[str, list[Job]] = {}
        for path in self.blobs.paths("jobs"):
            job = Job.model_validate_json(self.blobs.read(path))
            records.setdefault(job.id, []).append(job)
        return records

    def unfinished(self) -> list[Job]:
        """Return the newest records of the jobs that have not ended, of those that can be read."""
        found = []
        for path in {path.split("/")[1]: path for path in self.blobs.paths("jobs")}.values():
            with contextlib.suppress(ValueError, FileNotFoundError):
                job = Job.model_validate_json(self.blobs.read(path))
                if not job.status.is_final:
                    found.append(job)
        return found

    def _models(self) -> Iterator[str]:
        models = Models(self.blobs)
        cards, damaged = models.scan()
        for model in damaged:
            yield f"model {model.reference} is damaged: {model.reason}"
        for card in cards:
            try:
                files = {name: models.get(card.reference).file(name) for name in card.files}
            except (NotFound, Unavailable) as error:
                yield f"model {card.reference} is not whole: {error}"
                continue
            if card.job:
                weights = hashlib.sha256(files[WEIGHTS]).hexdigest()
                self.weights = self.weights or weights
                if weights != self.weights:
                    yield f"model {card.reference} of {card.job} has other weights than the undisturbed one"

    def _calibrations(self) -> Iterator[str]:
        with self._client() as http:
            answer = http.get(f"{MODEL}/calibrations")
        found = {one["name"]: one["lines"] for one in answer.json()["data"]}
        for name, lines in self.ledger.calibrations.items():
            if found.get(name) != lines:
                yield f"calibration {name} of {lines} lines: found {found.get(name)}"

    def _labels(self) -> Iterator[str]:
        decisions = AlertDecisions(self.blobs).all("real")
        for alert, label in self.ledger.labels.items():
            if alert not in decisions or decisions[alert].label != label:
                yield f"the label {label} of {alert} is lost: {decisions.get(alert)}"

    def _lines(self) -> Iterator[str]:
        """Compare the occurrences of alerts with what scoring flags of the acknowledged lines."""
        new = sorted(self.ledger.lines - self._counted)
        if new:
            self._flagged += self._flagged_by_score(new)
            self._counted |= set(new)
        with self.installation.redis() as redis:
            occurrences, _ = Alerts(redis, self.blobs).totals()
        recorded = sum(occurrences.values()) - self._occurrences_before
        if recorded != self._flagged:
            yield (
                f"{recorded} occurrences of alerts were recorded of {len(self._counted)} accepted lines, of"
                f" which {self._flagged} are flagged"
            )

    def _flagged_by_score(self, numbers: list[int]) -> int:
        body = "".join(line(i) + "\n" for i in numbers).encode()
        params = {"false_alarms": RATE, "only": "anomalous", "detail": "none", "repeats": "flag"}
        with self._client() as http:
            headers = {"Content-Type": "text/plain"}
            answer = http.post(f"{MODEL}/score", content=body, headers=headers, params=params)
        end = json.loads(answer.text.splitlines()[-1])
        assert end["object"] == "score.end" and end["lines"] == len(numbers), answer.text[-500:]
        return int(end["anomalous"])

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.installation.url, timeout=60)
