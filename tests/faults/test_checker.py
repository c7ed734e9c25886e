"""The checker of fault rounds finds what is wrong: each kind of loss, done by hand."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.models.saved_model import describe_files
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.jobs import Job, Jobs, JobStatus
from nextchar.store.models import Models
from tests.app.logs.alerts.occurrences import one
from tests.faults.checker import WEIGHTS, Checker
from tests.faults.installation import Installation
from tests.faults.workload import Ledger
from tests.store.test_jobs import REQUEST
from tests.store.test_models import FILES, _card

TEXT = b"a text\n" * 50


class Quiet:
    """A storage with a corpus, a job that has made a model, and a label; all of them acknowledged."""

    def __init__(self, folder: Path) -> None:
        installation = SimpleNamespace(store=folder / "store", url="http://127.0.0.1:1")
        self.checker = Checker(cast(Installation, installation), Ledger())
        self.ledger, self.blobs = self.checker.ledger, self.checker.blobs
        with Upload(folder / "spool", limit_bytes=10**6) as upload:
            upload.feed(TEXT)
            self.corpus = Corpora(self.blobs).add(upload)[0].id
        self.ledger.corpora[self.corpus] = hashlib.sha256(TEXT).hexdigest()
        self.job = self.new_job()
        self.checker.sent_keys = 1
        self.publish(1)
        self.finish(self.job)

    def new_job(self) -> Job:
        job = Jobs(self.blobs).create(REQUEST)
        self.ledger.jobs[job.id] = self.corpus
        return job

    def finish(self, job: Job, to: JobStatus = JobStatus.SUCCEEDED) -> None:
        jobs = Jobs(self.blobs)
        jobs.move(jobs.move(job, JobStatus.RUNNING, attempt=1), to)

    def publish(self, number: int, *, weights: bytes = FILES[WEIGHTS]) -> None:
        files = FILES | {WEIGHTS: weights}
        card = _card(number=number).model_copy(update={"job": self.job.id, "files": describe_files(files)})
        Models(self.blobs).publish(card, files)

    def found(self) -> str:
        parts = (self.checker._corpora, self.checker._jobs, self.checker._models, self.checker._labels)
        return "; ".join(violation for part in parts for violation in part())


@pytest.fixture
def quiet(tmp_path: Path) -> Quiet:
    made = Quiet(tmp_path)
    assert made.found() == ""
    return made


def _lose_the_corpus(quiet: Quiet) -> None:
    Corpora(quiet.blobs).delete(quiet.corpus)


def _change_the_text(quiet: Quiet) -> None:
    quiet.ledger.corpora[quiet.corpus] = hashlib.sha256(b"another").hexdigest()


def _lose_the_job(quiet: Quiet) -> None:
    quiet.blobs.delete(*quiet.blobs.paths("jobs"))


def _do_it_twice(quiet: Quiet) -> None:
    quiet.publish(2)


def _lose_the_model(quiet: Quiet) -> None:
    Models(quiet.blobs).delete("m@1")


def _damage_the_model(quiet: Quiet) -> None:
    (path,) = [path for path in quiet.blobs.paths("model_files") if path.endswith(WEIGHTS)]
    quiet.blobs.write(path, b"graph?")


def _train_another_network(quiet: Quiet) -> None:
    quiet.publish(2, weights=b"other")


def _end_never(quiet: Quiet) -> None:
    Jobs(quiet.blobs).move(quiet.new_job(), JobStatus.RUNNING, attempt=1)


def _fail(quiet: Quiet) -> None:
    quiet.finish(quiet.new_job(), JobStatus.FAILED)


def _skip_a_transition(quiet: Quiet) -> None:
    quiet.blobs.delete(f"jobs/{quiet.job.id}/000001.json")


def _create_a_job_twice(quiet: Quiet) -> None:
    quiet.finish(quiet.new_job(), JobStatus.CANCELLED)


def _lose_a_label(quiet: Quiet) -> None:
    quiet.ledger.labels["alert_1"] = "incident"


@pytest.mark.parametrize(
    ("lose", "violation"),
    [
        (_lose_the_corpus, "is lost: there is no corpus"),
        (_change_the_text, "has another text"),
        (_lose_the_job, "is lost"),
        (_do_it_twice, "has 2 models"),
        (_lose_the_model, "has 0 models"),
        (_damage_the_model, "is not whole"),
        (_train_another_network, "has other weights"),
        (_end_never, "does not end"),
        (_fail, "failed"),
        (_skip_a_transition, "went from 0 queued to 2 succeeded"),
        (_create_a_job_twice, "2 jobs of 1 idempotency keys"),
        (_lose_a_label, "is lost"),
    ],
)
def test_each_kind_of_loss_is_found(quiet: Quiet, lose: Callable[[Quiet], None], violation: str) -> None:
    lose(quiet)
    assert violation in quiet.found()


def test_a_label_that_is_there_is_found(quiet: Quiet, clean_redis_url: str) -> None:
    with Redis.from_url(clean_redis_url, decode_responses=True) as redis:
        alerts = Alerts(redis, quiet.blobs)
        alerts.record([one(model="real")])
        (alert,) = alerts.all("real")
        alerts.label("real", alert.id, "incident", by=None)
    quiet.ledger.labels[alert.id] = "incident"
    assert quiet.found() == ""
    quiet.ledger.labels[alert.id] = "normal"
    assert "the label normal" in quiet.found()
