"""What was acknowledged is whole after a loss of power at any moment in the life of corpus, job and model."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.errors import NotFound, Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.jobs import Job, JobRequest, Jobs, JobStatus
from nextchar.store.local_blobs import LocalBlobs
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.worker.checkpoints import Checkpoint, Checkpoints
from nextchar.worker.hooks import Hooks
from tests.store.power_loss import POLICIES, DiskThatSyncsNothing, RecordingDisk, left_after
from tests.worker import fake_training

TEXT = b"the quick brown fox jumps over the lazy dog\n" * 100
FILES = {"model.onnx": b"graph" * 500, "report.json": b"{}"}


@dataclass
class Acknowledged:
    """What callers have been told by now."""

    corpus: str | None = None
    job: str | None = None
    sequence: int = -1
    step: int = -1
    is_model_kept: bool = True  # until its deletion is asked for
    deleted: set[str] = field(default_factory=set)


class Life:
    """Uploads, trains, publishes and deletes, and notes after which operation what was acknowledged."""

    def __init__(self, folder: Path, disk: RecordingDisk, redis_url: str) -> None:
        self.disk, self.folder = disk, folder / "store"
        self.blobs: Blobs = LocalBlobs(self.folder, disk=disk)
        self.acknowledged: list[tuple[int, Callable[[Acknowledged], None]]] = []
        self._spool, self._redis_url = folder / "spool", redis_url

    def note(self, change: Callable[[Acknowledged], None]) -> None:
        self.acknowledged.append((len(self.disk.operations), change))

    def told_by(self, cut: int) -> Acknowledged:
        told = Acknowledged()
        for at, change in self.acknowledged:
            if at <= cut:
                change(told)
        return told

    def live(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Upload(self._spool, limit_bytes=10**6) as upload:
            upload.feed(TEXT)
            corpus, _ = Corpora(self.blobs).add(upload, name="fox")
        self.note(lambda told: setattr(told, "corpus", corpus.id))
        jobs = Jobs(self.blobs)
        job = jobs.create(
            JobRequest(corpus=corpus.id, name="fox", network=NetworkConfig(), training=TrainingConfig())
        )
        self.note(lambda told: setattr(told, "job", job.id))
        self.note(lambda told: setattr(told, "sequence", 0))
        job = jobs.move(job, JobStatus.RUNNING, attempt=1)
        self.note(lambda told: setattr(told, "sequence", 1))
        self._train(jobs, job, monkeypatch)
        self.note(lambda told: setattr(told, "sequence", 2))
        models = Models(self.blobs)
        renamed = models.rename("fox", "vixen").reference
        self.note(lambda told: told.deleted.add("fox@1"))
        self.note(lambda told: setattr(told, "is_model_kept", False))
        models.delete(renamed)
        self.note(lambda told: told.deleted.add(renamed))
        self.note(lambda told: setattr(told, "corpus", None))
        Corpora(self.blobs).delete(corpus.id)
        self.note(lambda told: told.deleted.add(corpus.id))

    def _train(self, jobs: Jobs, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run a worker's attempt, in which the training itself is two numbers."""

        def train(_: Job, hooks: Hooks) -> Mapping[str, bytes]:
            for step in (10, 20, 30, 40):
                array = np.full(300, step, np.float32)
                hooks.checkpoint(Checkpoint(step, {"w": array}, {"step": step}))
                self.note(lambda told, step=step: setattr(told, "step", step))  # type: ignore[misc]
            return FILES

        fake_training.use(train, monkeypatch)
        fake_training.attempt(
            job, jobs, self.blobs, self._redis_url, folder=self.folder.parent, token="token"
        ).run()


@pytest.fixture
def record(
    tmp_path: Path, clean_redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[RecordingDisk], Life]:
    def run(disk: RecordingDisk) -> Life:
        life = Life(tmp_path, disk, clean_redis_url)
        life.live(monkeypatch)
        return life

    return run


def _losses(life: Life) -> Iterator[str]:
    """Yield what is wrong after each cut, replayed in every way; what may be left is looked at once."""
    seen = set()
    for cut in range(len(life.disk.operations) + 1):
        told = life.told_by(cut)
        for policy, survives in POLICIES.items():
            left = left_after(life.disk.operations, cut, survives, life.folder)
            state = (frozenset(left.items()), repr(told))
            if state not in seen:
                seen.add(state)
                yield from (f"after {cut}, left {policy}: {what}" for what in _wrong(left, told))


def _wrong(left: dict[str, bytes], told: Acknowledged) -> Iterator[str]:
    blobs = open_blobs("memory:///")
    for path, data in left.items():
        blobs.write(path, data)
    yield from _wrong_corpora(Corpora(blobs), told)
    yield from _wrong_jobs(blobs, told)
    yield from _wrong_models(Models(blobs), told)


def _wrong_corpora(corpora: Corpora, told: Acknowledged) -> Iterator[str]:
    listed = [corpus.id for corpus in corpora.all()]
    if told.corpus and told.corpus not in listed:
        yield "an accepted corpus is lost"
    for corpus_id in listed:
        if corpus_id in told.deleted:
            yield "a deleted corpus is back"
        digest = hashlib.sha256()
        with contextlib.suppress(Unavailable):
            digest.update(b"".join(corpora.stream(corpus_id)))
        if digest.hexdigest() != hashlib.sha256(TEXT).hexdigest():
            yield "a listed corpus has lost its text"


def _wrong_jobs(blobs: Blobs, told: Acknowledged) -> Iterator[str]:
    if told.job is None:
        return
    job = None
    try:
        job = Jobs(blobs).get(told.job)
    except (NotFound, Unavailable) as error:
        yield f"an accepted job cannot be read: {error}"
    if job and job.sequence < told.sequence:
        yield f"transition {told.sequence} of a job is lost"
    has_model = told.job in {card.job for card in Models(blobs).all()}
    if job and job.status is JobStatus.SUCCEEDED and told.is_model_kept and not has_model:
        yield "a job has succeeded and its model is lost"
    if not job or not job.status.is_final:
        checkpoint, _ = Checkpoints(blobs, told.job).load()
        if (checkpoint.step if checkpoint else -1) < told.step:
            yield f"the checkpoint of step {told.step} is lost, and the job has not ended"


def _wrong_models(models: Models, told: Acknowledged) -> Iterator[str]:
    listed = models.all()
    if {card.reference for card in listed} & told.deleted:
        yield "a deleted model is back"
    for card in listed:
        try:
            [models.get(card.reference).file(name) for name in card.files]
        except Unavailable as error:
            yield f"a listed model is damaged: {error}"


def test_a_power_loss_at_any_time_loses_no_acknowledged_write(
    record: Callable[[RecordingDisk], Life],
) -> None:
    life = record(RecordingDisk())
    assert len(life.disk.operations) > 40
    assert next(_losses(life), None) is None


def test_without_syncs_the_same_life_loses_all_kinds_of_things(
    record: Callable[[RecordingDisk], Life],
) -> None:
    losses = " ".join(_losses(record(DiskThatSyncsNothing())))
    for what in (
        "corpus is lost",
        "lost its text",
        "job cannot be read",
        "model is lost",
        "checkpoint of step",
    ):
        assert what in losses


def test_reading_and_listing_sync_nothing(record: Callable[[RecordingDisk], Life]) -> None:
    disk = RecordingDisk()
    blobs = LocalBlobs(record(disk).folder, disk=disk)
    before = disk.syncs
    Jobs(blobs).all()
    Models(blobs).all()
    Corpora(blobs).all()
    assert not blobs.exists("nothing") and not blobs.paths("nothing") and not blobs.folders("nothing")
    with pytest.raises(FileNotFoundError):
        blobs.read("nothing")
    assert disk.syncs == before
