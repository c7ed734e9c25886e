import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nextchar.app.openai.batches import Batches, BatchStatus
from nextchar.app.operations.retention import Retention, RetentionSettings, remove_stale_uploads
from nextchar.models.config import Mix
from nextchar.models.errors import NotFound, StorageFull, Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.ids import new_id, time_of_id
from nextchar.store.jobs import Job, JobRequest, Jobs, JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.sweeping import retention_of
from tests.every_call import Interrupted, every_call
from tests.store.refusing import Refusing, unavailable
from tests.store.test_jobs import REQUEST
from tests.store.test_models import FILES
from tests.store.test_models import _card as card

DAY_S = 86400.0
NOW = time.time()
MODEL = new_id("model")
PERIODS = RetentionSettings()


class Attic:
    """A storage, and a way to sweep it some days from now."""

    def __init__(
        self, folder: Path, *, blobs: Blobs | None = None, redis: Redis | None = None, **periods: float
    ) -> None:
        self.folder = folder
        self.blobs = blobs or open_blobs((folder / "store").as_uri())
        nowhere = Redis(unix_socket_path=str(folder / "no.sock"), retry=Retry(NoBackoff(), 0))
        self.redis = redis or nowhere  # needed for chunks of batches
        self.jobs = Jobs(self.blobs)
        self.periods = PERIODS.model_copy(update=periods)

    def sweep(self, *, days: float = 0.0) -> dict[str, int]:
        """Sweep as a process does that has just started."""
        retention = retention_of(self.blobs, self.redis, self.periods, spool=self.folder / "spool")
        return dict(retention.sweep(now=NOW + days * DAY_S))

    def job(self, *path: JobStatus, request: JobRequest = REQUEST) -> Job:
        """Return a job that has gone this way, with a checkpoint and events."""
        job = self.jobs.create(request)
        for status in path:
            job = self.jobs.move(job, status)
        self.blobs.write(f"checkpoints/{job.id}/0000000007.npz", b"checkpoint")
        self.blobs.write(f"events/{job.id}.jsonl", b"{}\n")
        return job

    @property
    def everything(self) -> list[str]:
        """The paths of all that is stored."""
        folders = (
            "jobs",
            "events",
            "openai_jobs",
            "checkpoints",
            "idempotency",
            "model_files",
            "model_cards",
        )
        return [path for folder in folders for path in self.blobs.paths(folder)]

    def has_checkpoint(self, job: Job) -> bool:
        return self.jobs.checkpoint_step(job.id) is not None


@pytest.fixture
def attic(tmp_path: Path, blobs: Blobs) -> Attic:
    return Attic(tmp_path, blobs=blobs)


RUNNING, PAUSED, QUEUED = JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.QUEUED
SUCCEEDED, FAILED, CANCELLED = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED


@pytest.mark.parametrize("path", [(), (RUNNING,), (RUNNING, PAUSED), (RUNNING, FAILED, QUEUED)])
def test_files_of_an_unfinished_job_are_never_deleted(attic: Attic, path: tuple[JobStatus, ...]) -> None:
    attic.job(*path)
    before = attic.everything
    assert attic.sweep(days=10_000) == {}
    assert attic.everything == before


@pytest.mark.parametrize("path", [(RUNNING, SUCCEEDED), (RUNNING, PAUSED, CANCELLED)])
def test_checkpoints_of_jobs_that_cannot_go_on_are_deleted_at_once(
    attic: Attic, path: tuple[JobStatus, ...]
) -> None:
    job = attic.job(*path)
    assert attic.sweep() == {"checkpoints": 1}
    assert not attic.has_checkpoint(job)
    assert attic.jobs.get(job.id) == job


def test_failed_job_keeps_its_checkpoint_for_the_time_of_the_setting(tmp_path: Path) -> None:
    attic = Attic(tmp_path, failed_checkpoint_days=3)
    job = attic.job(RUNNING, FAILED)
    attic.sweep(days=2.9)
    assert attic.has_checkpoint(job)
    attic.sweep(days=3.1)
    assert not attic.has_checkpoint(job)


def test_a_clock_that_jumps_far_ahead_deletes_nothing_unless_it_stays_there_for_a_day(
    attic: Attic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uptime_s = [1000.0]
    clocks = SimpleNamespace(monotonic=lambda: uptime_s[0], time=time.time)
    monkeypatch.setattr("nextchar.app.operations.retention.time", clocks)
    for path in ((RUNNING, SUCCEEDED), (RUNNING, FAILED)):
        attic.job(*path)
    day = time.strftime("%Y-%m-%d", time.gmtime(NOW))
    attic.blobs.write(f"audit/{day}/{new_id('audit')}.delete_corpus.k.json", b"{}")
    running, other = (
        retention_of(attic.blobs, attic.redis, attic.periods, jobs=attic.jobs),
        retention_of(attic.blobs, attic.redis, attic.periods, jobs=attic.jobs),
    )
    running.sweep(now=NOW)
    before = attic.everything, attic.blobs.paths("audit")

    def sweep(retention: Retention, *, days: float) -> dict[str, int]:
        return dict(retention.sweep(now=NOW + days * DAY_S))

    assert (
        sweep(running, days=3650)
        == sweep(retention_of(attic.blobs, attic.redis, attic.periods, jobs=attic.jobs), days=3650)
        == {}
    ), "and after a restart"
    assert "the clock is 3650 days ahead of the last sweep" in caplog.text
    uptime_s[0] += DAY_S / 2
    assert sweep(other, days=0.5) == {}, "a process of another host, with the right clock"
    uptime_s[0] += DAY_S / 2
    assert sweep(running, days=3651) == {}
    assert (attic.everything, attic.blobs.paths("audit")) == before
    uptime_s[0] += DAY_S
    assert sweep(running, days=3652) == {"jobs": 2, "checkpoints": 1, "audit entries": 1}
    assert sweep(other, days=3652) == {}


def test_a_sweep_on_a_full_disk_is_complete(attic: Attic, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageFull("full")

    attic.job(RUNNING, SUCCEEDED)
    monkeypatch.setattr(attic.blobs, "write", refuse)
    assert attic.sweep(days=100) == {"jobs": 1, "checkpoints": 1}


def test_audit_entries_are_deleted_by_days_after_their_period_and_kept_for_ever_at_0(tmp_path: Path) -> None:
    days = [time.strftime("%Y-%m-%d", time.gmtime(NOW + day * DAY_S)) for day in range(3)]
    for period, deleted in ((0.0, 0), (1.0, 6), (9.0, 2), (8.0, 4), (10.0, 0), (float("inf"), 0)):
        attic = Attic(tmp_path / str(period), audit_retention_days=period)
        for path in (f"audit/{day}/{number}.json" for day in days for number in range(2)):
            attic.blobs.write(path, b"{}")
        assert attic.sweep(days=10) == ({"audit entries": deleted} if deleted else {})
        assert len(attic.blobs.paths("audit")) == 6 - deleted


def test_checkpoints_and_chunks_are_kept_while_no_record_at_all_is_there(
    tmp_path: Path, clean_redis_url: str
) -> None:
    """The folder of the records may be on a disk that is not mounted."""
    attic = Attic(tmp_path, redis=Redis.from_url(clean_redis_url, decode_responses=True))
    attic.blobs.write(f"checkpoints/{new_id('job')}/0000000001.npz", b"")
    attic.blobs.write(f"batch_chunks/{new_id('batch')}/000000.input.jsonl", b"")
    assert attic.sweep(days=10_000) == {}
    assert attic.blobs.paths("checkpoints") and attic.blobs.paths("batch_chunks")


def test_a_damaged_idempotency_record_is_deleted_so_that_its_key_can_be_used(attic: Attic) -> None:
    for name, record in (("a", b"{"), ("b", b"[]"), ("c", b"{}"), ("d", b'{"job": 3}'), ("e", b"[" * 10**5)):
        attic.blobs.write(f"idempotency/{name}", record)
    attic.blobs.write("idempotency/other", b'{"job": "job_1"}')  # of an unknown time
    assert attic.sweep() == {"idempotency keys": 5}
    assert attic.blobs.paths("idempotency") == ["idempotency/other"]


def test_files_of_a_model_are_kept_for_a_day_after_its_making_and_after_its_job(attic: Attic) -> None:
    made_at = time_of_id("model", MODEL)
    assert made_at is not None
    attic.blobs.write(f"model_files/{MODEL}/model.onnx", b"")
    assert attic.sweep(days=(made_at - NOW) / DAY_S + 1) == {}
    job = attic.job(RUNNING, FAILED)
    attic.blobs.write(f"model_files/{job.id.replace('job_', 'model_')}/model.onnx", b"")
    attic.blobs.write("model_files/of-an-unknown-time/model.onnx", b"")
    resumed = attic.jobs.move(attic.jobs.move(attic.jobs.move(job, QUEUED), RUNNING), FAILED)
    late = attic.jobs.move(resumed, QUEUED, updated_at=NOW + 5 * DAY_S)
    late = attic.jobs.move(late, CANCELLED, updated_at=NOW + 5 * DAY_S)
    assert attic.sweep(days=2)["model files"] == 1, "the one without a job"
    assert attic.sweep(days=6).get("model files", 0) == 0
    assert attic.sweep(days=6 + 1e-6)["model files"] == 1
    assert attic.blobs.paths("model_files") == ["model_files/of-an-unknown-time/model.onnx"]


def test_a_setting_of_0_keeps_for_ever(tmp_path: Path) -> None:
    attic = Attic(tmp_path, failed_checkpoint_days=0, job_retention_days=0, idempotency_retention_days=0)
    job = attic.job(RUNNING, FAILED)
    attic.blobs.write("idempotency/key", f'{{"body": "", "job": "{job.id}"}}'.encode())
    kept = corpus(attic, "unused")
    assert attic.sweep(days=10_000) == {}
    assert attic.has_checkpoint(job) and [found.id for found in Corpora(attic.blobs).all()] == [kept]


def test_checkpoints_without_a_job_are_deleted_but_not_those_of_a_damaged_record(attic: Attic) -> None:
    damaged = attic.job(RUNNING)
    attic.blobs.write(f"jobs/{damaged.id}/000001.json", b"{")
    attic.blobs.write(f"checkpoints/{new_id('job')}/0000000001.npz", b"orphan")
    assert attic.sweep(days=10_000) == {"checkpoints": 1}
    assert attic.has_checkpoint(damaged)


def test_finished_jobs_go_with_all_that_is_kept_beside_them_after_the_time_of_the_setting(
    tmp_path: Path,
) -> None:
    attic = Attic(tmp_path, job_retention_days=30)
    job, live = attic.job(RUNNING, FAILED), attic.job(RUNNING)
    attic.blobs.write(f"openai_jobs/{job.id}.json", b"{}")
    attic.sweep(days=29)
    assert attic.jobs.get(job.id) == job
    assert attic.sweep(days=31)["jobs"] == 1
    left = attic.everything
    assert not [path for path in left if job.id in path]
    assert [path for path in left if live.id in path]
    assert attic.jobs.all() == [attic.jobs.get(live.id)] == [live]


def test_deletion_of_a_job_that_is_cut_short_never_brings_it_back(
    attic: Attic, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = attic.job(RUNNING, SUCCEEDED)

    deleted: list[str] = []

    really_delete = type(attic.blobs).delete

    def delete(blobs: Blobs, *paths: str) -> None:
        for path in paths:
            if deleted:
                raise KeyboardInterrupt
            deleted.append(path)
            really_delete(blobs, path)

    monkeypatch.setattr(type(attic.blobs), "delete", delete)
    with pytest.raises(KeyboardInterrupt):
        Jobs(attic.blobs).delete(job)
    assert len(deleted) == 1
    assert Jobs(attic.blobs).get(job.id).status is SUCCEEDED


def test_an_ended_job_keeps_only_its_newest_record_and_numbers_stay_taken(attic: Attic) -> None:
    queued = attic.jobs.create(REQUEST)
    running = attic.jobs.move(queued, RUNNING)
    done = attic.jobs.move(running, SUCCEEDED)
    attic.sweep(days=2)
    assert attic.blobs.paths(f"jobs/{done.id}") == [f"jobs/{done.id}/000002.json"]
    assert Jobs(attic.blobs).get(done.id) == done
    for stale in (queued, running):  # as a process knows it that stood still
        with pytest.raises(Exception, match="was changed") as caught:
            attic.jobs.move(stale, CANCELLED)
        assert caught.value.code == "job_moved"  # type: ignore[attr-defined]


def test_idempotency_keys_are_deleted_after_the_time_of_the_setting(attic: Attic) -> None:
    job = attic.job()
    attic.blobs.write("idempotency/key", f'{{"body": "", "job": "{job.id}"}}'.encode())
    attic.blobs.write("idempotency/other", f'{{"body": "", "batch": "{new_id("batch")}"}}'.encode())
    assert attic.sweep(days=6.9) == {}
    assert attic.sweep(days=7.1) == {"idempotency keys": 2}
    assert attic.blobs.paths("idempotency") == []
    assert attic.jobs.get(job.id) == job


def test_model_files_without_a_card_are_deleted_after_a_day(attic: Attic) -> None:
    models = Models(attic.blobs)
    kept = models.publish(card().model_copy(update={"id": new_id("model")}), FILES)
    publishing, over = attic.job(RUNNING), attic.job(RUNNING, FAILED)
    orphans = [new_id("model"), over.id.replace("job_", "model_")]
    for model_id in (publishing.id.replace("job_", "model_"), *orphans):
        attic.blobs.write(f"model_files/{model_id}/model.onnx", b"")
    assert attic.sweep(days=0.9) == {}
    assert attic.sweep(days=1.1)["model files"] == 2
    assert set(attic.blobs.folders("model_files")) == {kept.id, publishing.id.replace("job_", "model_")}


def test_no_model_files_are_deleted_while_a_card_cannot_be_read(attic: Attic) -> None:
    saved = Models(attic.blobs).publish(card().model_copy(update={"id": new_id("model")}), FILES)
    attic.blobs.write(f"model_cards/{saved.name}/000001.json", b"{")
    assert attic.sweep(days=10_000) == {}
    assert len(attic.blobs.paths(f"model_files/{saved.id}")) == len(FILES)


class ListedByName(Interrupted):
    """Lists the models `a` before those called `z`, and something may happen in between."""

    def paths(self, prefix: str) -> list[str]:
        if prefix != "model_cards":
            return super().paths(prefix)
        return [path for name in ("a", "z") for path in super(ListedByName, self).paths(f"{prefix}/{name}")]


def whenever_it_happens(
    folder: Path, prepare: Callable[[Attic], Callable[[], object]], *, sweeps_at_day: float
) -> None:
    """Sweep with what `prepare` returns done before each call of the storage in turn.

    Of the model that there is at the end all files must be there.
    """
    for call in every_call(more_than=5):
        attic = Attic(folder / str(call.at))
        call.meanwhile = prepare(attic)
        Attic(attic.folder, blobs=ListedByName(attic.blobs, call)).sweep(days=sweeps_at_day)
        models = Models(attic.blobs)
        for saved in models.all() if call.has_come else []:
            found = {name: models.get(saved.reference).file(name) for name in FILES}
            assert found == FILES, call


def test_files_of_a_concurrently_renamed_model_stay(tmp_path: Path) -> None:
    def renamed(attic: Attic) -> Callable[[], object]:
        models = Models(attic.blobs)
        models.publish(card("z").model_copy(update={"id": new_id("model")}), FILES, attempt=1)
        return lambda: models.rename("z", "a")

    whenever_it_happens(tmp_path, renamed, sweeps_at_day=3)


def test_files_of_a_concurrently_resumed_and_published_job_stay(tmp_path: Path) -> None:
    def resumed(attic: Attic) -> Callable[[], object]:
        failed = attic.job(RUNNING, FAILED)
        model_id = failed.id.replace("job_", "model_")
        attic.blobs.write(f"model_files/{model_id}/attempt-1/model.onnx", b"cut short")

        def resume() -> None:
            running = attic.jobs.move(attic.jobs.move(failed, QUEUED), RUNNING, attempt=2)
            saved = card("z").model_copy(update={"id": model_id})
            Models(attic.blobs).publish(saved, FILES, attempt=2)
            attic.jobs.move(running, SUCCEEDED)

        return resume

    whenever_it_happens(tmp_path, resumed, sweeps_at_day=3)


def test_abandoned_uploads_are_removed(attic: Attic) -> None:
    spool = attic.folder / "spool"
    spool.mkdir()
    for name in ("upload-dead", "upload-live", "other"):
        (spool / name).write_bytes(b"")
    for name in ("upload-dead", "other"):
        os.utime(spool / name, (NOW - 7200, NOW - 7200))
    os.utime(spool / "upload-live", (int(NOW) - 3599, int(NOW) - 3599))
    assert attic.sweep() == {"spooled uploads": 1}
    assert sorted(path.name for path in spool.iterdir()) == ["other", "upload-live"]


def test_upload_is_abandoned_only_when_its_process_has_ended(tmp_path: Path) -> None:
    later = time.time() + 7200
    with Upload(tmp_path, limit_bytes=9) as upload:
        assert remove_stale_uploads(tmp_path, now=later) == 0
        upload._file.close()  # as the system does with those of a killed process
        assert remove_stale_uploads(tmp_path, now=later) == 1
        assert not upload.path.exists()


def test_nothing_is_deleted_while_the_storage_cannot_be_read(attic: Attic, tmp_path: Path) -> None:
    attic.job(RUNNING)
    before = attic.everything
    away = Attic(tmp_path, blobs=Refusing(attic.blobs, read=("jobs",), error=unavailable))
    with pytest.raises(Unavailable):
        away.sweep(days=10_000)
    assert attic.everything == before


def test_ended_batches_are_kept_for_their_period_and_leave_no_chunks(
    tmp_path: Path, clean_redis_url: str
) -> None:
    redis = Redis.from_url(clean_redis_url, decode_responses=True)
    attic = Attic(tmp_path, redis=redis, job_retention_days=30)
    batches = Batches(attic.blobs, redis)
    about = {"endpoint": "/v1/completions", "input_file": "corpus_000000000000", "completion_window": "24h"}
    ended, waiting = (batches.create(**about, created_at=1, expires_at=2) for _ in range(2))
    ended = batches.move(ended, BatchStatus.CANCELLED)
    for batch_id in (ended.id, waiting.id, "batch_000000000000"):
        batches.write_input(batch_id, 0, [b"{}"])
    assert "batches" not in attic.sweep(days=29)
    assert batches.batches_with_chunks() == [waiting.id]
    assert {batch.id for batch in batches.all()} == {ended.id, waiting.id}
    assert attic.sweep(days=31)["batches"] == 1
    assert [batch.id for batch in Batches(attic.blobs, redis).all()] == [waiting.id]


def corpus(attic: Attic, text: str) -> str:
    with Upload(attic.folder / "uploads", limit_bytes=10**6) as upload:
        upload.feed(text.encode())
        return Corpora(attic.blobs).add(upload, name=text)[0].id


def upload_again(attic: Attic, text: str) -> None:
    """Upload a text 31 days later."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("nextchar.store.corpora.time.time", lambda: NOW + 31 * DAY_S)
        corpus(attic, text)


def test_old_corpora_that_no_job_and_no_model_names_are_deleted(tmp_path: Path) -> None:
    attic = Attic(tmp_path, corpus_retention_days=30, job_retention_days=0)
    unused, of_job, of_model, mixed = (corpus(attic, name) for name in ("a", "b", "c", "d"))
    attic.job(JobStatus.CANCELLED, request=REQUEST.model_copy(update={"corpus": of_job}))
    mix = Mix(corpus=mixed, fraction=0.5)
    Models(attic.blobs).publish(card().model_copy(update={"corpus": of_model, "mix": mix}), FILES)
    assert "corpora" not in attic.sweep(days=29)
    assert attic.sweep(days=31)["corpora"] == 1
    assert {found.id for found in Corpora(attic.blobs).all()} == {of_job, of_model, mixed}
    assert attic.blobs.paths(f"corpora/{unused}") == []
    assert set(Corpora(attic.blobs).names()) == {"b", "c", "d"}


def test_a_corpus_that_is_uploaded_again_is_kept_as_long_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attic = Attic(tmp_path, corpus_retention_days=30)
    corpus(attic, "a")
    monkeypatch.setattr("nextchar.store.corpora.time.time", lambda: NOW + 20 * DAY_S)
    corpus(attic, "a")
    monkeypatch.undo()
    assert attic.sweep(days=45) == {}
    assert attic.sweep(days=51) == {"corpora": 1}


def test_a_corpus_that_is_uploaded_during_a_sweep_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attic = Attic(tmp_path, corpus_retention_days=30)
    for text in ("a", "b"):
        corpus(attic, text)
    named_corpora = Retention._named_corpora

    def upload_and_list(retention: Retention) -> set[str]:
        monkeypatch.setattr("nextchar.store.corpora.time.time", lambda: NOW + 31 * DAY_S)
        corpus(attic, "b")
        return named_corpora(retention)

    monkeypatch.setattr(Retention, "_named_corpora", upload_and_list)
    assert attic.sweep(days=31) == {"corpora": 1}
    assert set(Corpora(attic.blobs).names()) == {"b"}


def test_the_text_of_an_interrupted_upload_is_deleted_by_the_second_full_sweep_that_sees_it(
    tmp_path: Path,
) -> None:
    attic = Attic(tmp_path)
    whole, interrupted = corpus(attic, "a"), corpus(attic, "b")
    Corpora(attic.blobs).owners.add(interrupted, "ann", is_new=True)
    attic.blobs.delete(f"corpora/{interrupted}/corpus.json")
    retention = retention_of(attic.blobs, attic.redis, attic.periods, jobs=attic.jobs)
    assert retention.sweep(now=NOW) == {}
    assert retention.sweep(now=NOW - 7200) == {}, "the clock was set back"
    assert retention.sweep(now=NOW - 3601) == {}
    assert retention.sweep(now=NOW - 3600) == {"texts of incomplete corpora": 1}
    assert attic.blobs.folders("corpora") == [whole]
    assert attic.blobs.paths("corpus_owners") == [] and set(Corpora(attic.blobs).names()) == {"a"}
    assert attic.sweep(days=1) == {}


def test_a_corpus_that_is_uploaded_again_while_what_was_left_of_it_is_looked_for_is_kept(
    tmp_path: Path,
) -> None:
    lost = 0
    for call in every_call(more_than=5):
        attic = Attic(tmp_path / str(call.at))
        corpus_id = corpus(attic, "a")
        attic.blobs.delete(f"corpora/{corpus_id}/corpus.json", "corpus_names/a")
        call.is_armed = False
        dying = Attic(attic.folder, blobs=call.blobs(attic.blobs, partial(corpus, attic, "a")))
        retention = retention_of(dying.blobs, dying.redis, dying.periods, jobs=dying.jobs)
        retention.sweep(now=NOW)
        call.is_armed = True
        retention.sweep(now=NOW + 3600)
        left = [path.rpartition("/")[2] for path in attic.blobs.paths(f"corpora/{corpus_id}")]
        assert left in ([], ["corpus.json", "text"]), call
        lost += call.has_come and not left
    assert lost <= 2, "only if it ends between the last look and the deletion"


def test_a_job_that_is_accepted_during_a_sweep_keeps_its_corpus(tmp_path: Path) -> None:
    for call in every_call(more_than=10):
        attic = Attic(tmp_path / str(call.at), corpus_retention_days=30)
        corpora, corpus_id = Corpora(attic.blobs), corpus(attic, "a")
        accepted: list[Job] = []

        def submit(
            attic: Attic = attic,
            corpora: Corpora = corpora,
            corpus_id: str = corpus_id,
            accepted: list[Job] = accepted,
        ) -> None:
            """Record a job and look for its corpus, as `JobControl.submit` does."""
            job = attic.jobs.create(REQUEST.model_copy(update={"corpus": corpus_id}))
            try:
                corpora.get(corpus_id)
            except NotFound:
                attic.jobs.delete(job)
            else:
                accepted.append(job)

        Attic(attic.folder, blobs=call.blobs(attic.blobs, submit), corpus_retention_days=30).sweep(days=31)
        if accepted:
            assert "".join(corpora.pieces(corpus_id)) == "a", call
        else:
            assert attic.blobs.paths("corpora") == []


def test_a_corpus_is_kept_if_it_is_not_known_whether_a_new_job_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attic = Attic(tmp_path, corpus_retention_days=30)
    corpus_id = corpus(attic, "a")

    def is_used(_: Retention, corpus_id: str) -> bool:
        if attic.blobs.exists(f"corpora/{corpus_id}/corpus.json"):
            return False
        raise unavailable()

    monkeypatch.setattr(Retention, "_is_used", is_used)
    assert attic.sweep(days=31) == {}
    assert "".join(Corpora(attic.blobs).pieces(corpus_id)) == "a"


def test_a_corpus_that_is_uploaded_while_it_is_deleted_is_whole_or_deleted(tmp_path: Path) -> None:
    for call in every_call(more_than=10):
        attic = Attic(tmp_path / str(call.at), corpus_retention_days=30)
        corpus(attic, "a")
        blobs = call.blobs(attic.blobs, partial(upload_again, attic, "a"))
        Attic(attic.folder, blobs=blobs, corpus_retention_days=30).sweep(days=31)
        left = [path.rpartition("/")[2] for path in attic.blobs.paths("corpora")]
        assert left in ([], ["corpus.json", "text"]), call


def test_corpora_are_kept_while_the_record_of_a_batch_cannot_be_read(tmp_path: Path) -> None:
    attic = Attic(tmp_path, corpus_retention_days=30)
    corpus(attic, "a")
    attic.blobs.write(f"batches/{new_id('batch')}/000000.json", b"damaged")
    assert attic.sweep(days=31) == {}
    assert len(Corpora(attic.blobs).all()) == 1


def test_the_input_of_a_batch_that_has_not_ended_is_kept(tmp_path: Path, clean_redis_url: str) -> None:
    redis = Redis.from_url(clean_redis_url, decode_responses=True)
    attic = Attic(tmp_path, redis=redis, corpus_retention_days=30)
    batches, about = Batches(attic.blobs, redis), {"endpoint": "/v1/completions", "completion_window": "24h"}
    batch = batches.create(**about, input_file=corpus(attic, "a"), created_at=1, expires_at=2)
    assert "corpora" not in attic.sweep(days=31)
    batches.move(batch, BatchStatus.CANCELLED)
    assert attic.sweep(days=31)["corpora"] == 1


def test_corpora_are_kept_while_a_record_of_a_job_or_model_cannot_be_read(tmp_path: Path) -> None:
    attic = Attic(tmp_path, corpus_retention_days=30)
    corpus(attic, "a")
    job = attic.job(JobStatus.CANCELLED)
    [path] = attic.blobs.paths(f"jobs/{job.id}")[-1:]
    attic.blobs.write(path, b"damaged")
    assert "corpora" not in attic.sweep(days=31)
    assert len(Corpora(attic.blobs).all()) == 1
