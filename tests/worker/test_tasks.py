"""Jobs run by real worker processes, and what becomes of them when those are killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from nextchar.app.jobs.reconcile import Reconciler
from nextchar.models.auto_preset import Candidate
from nextchar.models.config import Budget, Mix, NetworkConfig, TrainingConfig
from nextchar.models.kernels.instruction_sets import available_levels
from nextchar.models.text import line_file, mask_values
from nextchar.models.text.line_file import Lines
from nextchar.store import queue
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.jobs import Job, JobRequest, Jobs, JobStatus
from nextchar.store.live import EventLog, Live
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.store.queue import TrainingQueue
from nextchar.worker import tasks
from nextchar.worker.report import FILE_NAME
from nextchar.worker.settings import WorkerSettings
from tests.waiting import eventually
from tests.worker.warm_worker import COLD, WITHOUT_WARM_UP, WarmWorker

ROOT = Path(__file__).parents[2]
NETWORK = NetworkConfig(units=32, embedding=8)
TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 400


class World:
    """Storage, Redis, and workers that can be started and killed."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder, self.redis_url = folder, redis_url
        self.blobs = open_blobs((folder / "store").as_uri())
        self.jobs, self.models = Jobs(self.blobs), Models(self.blobs)
        self.live = Live(Redis.from_url(redis_url, decode_responses=True))
        self.queue = TrainingQueue(Redis.from_url(redis_url))
        self.reconciler = Reconciler(self.jobs, self.live, self.queue)
        self.workers: list[subprocess.Popen[bytes] | WarmWorker] = []
        with Upload(folder / "spool", limit_bytes=10**6) as upload:
            upload.feed(TEXT.encode())
            self.corpus, _ = Corpora(self.blobs).add(upload)

    def start_worker(
        self, *, is_warm: bool = True, checkpoint_seconds: float = 0.5, isa: str = "", max_jobs: int = 0
    ) -> "subprocess.Popen[bytes] | WarmWorker":
        """Start `worker.main`; a warm one has the kernels loaded, so that it and its children begin at once.

        One that is limited by NEXTCHAR_ISA compiles its own kernels: those that its jobs use, when they do.
        """
        environment = {
            **os.environ,
            "NEXTCHAR_DATA_DIR": str(self.folder),
            "NEXTCHAR_REDIS_URL": self.redis_url,
            "NEXTCHAR_CHECKPOINT_SECONDS": str(checkpoint_seconds),
            "NEXTCHAR_MAX_JOBS": str(max_jobs),
        }
        if isa:
            environment["NEXTCHAR_ISA"] = isa
            environment["NUMBA_OPT"] = "1"  # compiles in half the time
            environment["NUMBA_CACHE_DIR"] = str(self.folder / "compiled")
        worker: subprocess.Popen[bytes] | WarmWorker
        if is_warm and not isa:
            worker = WarmWorker(environment)
        else:
            program = f"{WITHOUT_WARM_UP}; {COLD}" if isa else COLD
            worker = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment)
        self.workers.append(worker)
        return worker

    def send(
        self,
        budget: Budget,
        *,
        name: str = "fox",
        corpus: str | None = None,
        network: NetworkConfig = NETWORK,
        **options: Any,
    ) -> Job:
        training = TrainingConfig(rows=8, window=32, budget=budget)
        job = self.jobs.create(
            JobRequest(
                corpus=corpus or self.corpus.id, name=name, network=network, training=training, **options
            )
        )
        self.queue.enqueue(job)
        return job

    def status(self, job: Job) -> JobStatus:
        """Where the job is now; the reconciler looks, as it does every few seconds in the API."""
        self.reconciler.run()
        return self.jobs.get(job.id).status

    def finished(self, job: Job, *, within_s: float = 250) -> Job:
        eventually(lambda: self.status(job).is_final, within_s=within_s, what=f"{job.id} is over")
        return self.jobs.get(job.id)

    def trained(self, job: Job, *, steps: int) -> None:
        def far_enough() -> bool:
            self.reconciler.run()
            progress = self.live.progress(job.id)
            return progress is not None and progress["step"] >= steps

        # At once: the job ends soon after.
        eventually(far_enough, within_s=200, what=f"{job.id} has done {steps} steps", max_pause_s=0.02)

    def end_lease(self, job: Job) -> None:
        """Let a dead child's lease run out, as it does in time; the reconciler waits for some seconds."""
        Redis.from_url(self.redis_url).pexpire(f"nextchar:job:{job.id}:lease", 1)

    def forget_lease(self, job: Job) -> None:
        """Let a dead child's lease run out now, and send the job again, as the reconciler does in time."""
        Redis.from_url(self.redis_url).delete(f"nextchar:job:{job.id}:lease")
        impatient = Reconciler(self.jobs, self.live, self.queue, patience_s=0)
        impatient.run()
        assert self.jobs.get(job.id).status is JobStatus.QUEUED

    def events(self, job: Job) -> list[dict[str, Any]]:
        return EventLog(self.blobs).read(job.id)


@pytest.fixture
def world(tmp_path: Path, clean_redis_url: str) -> Iterator[World]:
    world = World(tmp_path, clean_redis_url)
    yield world
    for worker in world.workers:
        worker.kill()
        worker.wait()


def _children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def test_a_job_becomes_one_model_if_its_message_is_delivered_twice(world: World) -> None:
    job = world.send(Budget(steps=150))
    world.queue.enqueue(job.model_copy(update={"sequence": 99}))
    world.start_worker(is_warm=False)
    done = world.finished(job)
    assert (done.status, done.model, done.attempt) == (JobStatus.SUCCEEDED, "fox@1", 1)
    eventually(lambda: not world.queue.waiting(), what="the second message is taken")
    assert [card.reference for card in world.models.all()] == ["fox@1"]
    saved = world.models.get("fox")
    report = saved.card.report
    assert report["validation_bits_per_character"] < report["baselines"]["unigram"]
    assert {"model.onnx", "model.keras"} <= set(saved.card.files)
    assert {"report.json", "report.html", "report.svg", FILE_NAME} <= set(saved.card.files)
    assert report["problems"] == []
    assert report["experts"]["mixture"] == report["validation_bits_per_character"] < report["experts"]["lstm"]
    assert {"mixture.npz", "ngram.npz", "word_ngram.npz", "templates.json", "successors.json"} <= set(
        saved.card.files
    )
    assert mask_values.FILE not in saved.card.files  # there are no masks
    assert ("model.int8.npz" in saved.card.files) == report["int8"]["kept"]
    assert abs(report["int8"]["lost_nats"]) < 0.2
    assert saved.file("model.onnx")
    events = world.events(job)
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert {"metrics", "sample"} <= {event["type"] for event in events}
    assert done.progress is not None
    assert done.progress["step"] == 150
    assert world.blobs.paths("checkpoints") == []


def test_a_killed_worker_loses_nothing_and_changes_no_bit(world: World) -> None:
    worker = world.start_worker()
    whole = world.finished(world.send(Budget(steps=1200), name="whole"))
    job = world.send(Budget(steps=1200), name="broken")
    for steps in (200, 700):
        world.trained(job, steps=steps)
        children = _children(worker.pid)
        worker.kill()
        worker.wait()
        eventually(
            lambda pids=children: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids),
            what="the child died with its parent",
        )
        world.live.set_progress(job.id, {"step": 0})
        world.end_lease(job)
        worker = world.start_worker()
    done = world.finished(job)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 3)
    hashes = [world.models.get(name).card.files["model.onnx"].sha256 for name in ("whole", "broken")]
    assert hashes[0] == hashes[1]
    assert whole.status is JobStatus.SUCCEEDED
    # The report has the samples of all attempts, and so have those who watched.
    told = json.loads(world.models.get("broken").file("report.json"))
    assert [sample["step"] for sample in told["samples"]] == [point["step"] for point in told["curve"]]
    assert any("continuing from the checkpoint" in str(event["data"]) for event in world.events(job))


DIES_IN_OPTIONAL_PARTS = """
import os, signal, nextchar.worker.experts, nextchar.worker.report_page
die, bits = (lambda *_, **__: os.kill(os.getpid(), signal.SIGSEGV)), nextchar.worker.experts.Mixture.bits
def bits_or_die(*arguments, by_expert, **options):
    return die() if by_expert else bits(*arguments, by_expert=by_expert, **options)
nextchar.worker.experts.Mixture.bits, nextchar.worker.report_page.curves_svg = bits_or_die, die
"""


@pytest.mark.long  # a worker starts five times
def test_a_model_is_published_without_the_parts_that_killed_its_worker_twice(world: World) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", DIES_IN_OPTIONAL_PARTS + COLD],
        cwd=ROOT,
        env={**os.environ, "NEXTCHAR_DATA_DIR": str(world.folder), "NEXTCHAR_REDIS_URL": world.redis_url},
    )
    world.workers.append(worker)
    job = world.send(Budget(steps=20))
    parts = ["figures of single experts", "picture of the report"]
    for count in range(1, 5):
        eventually(lambda n=count: len(world.live.kills(job.id)) == n, within_s=250, what=f"{count} kills")
        assert [kill.get("phase") for kill in world.live.kills(job.id)] == [
            *parts[:1] * min(count, 2), *parts[1:] * (count - 2)
        ]  # fmt: skip
        world.forget_lease(job)
    eventually(lambda: world.jobs.get(job.id).status.is_final, within_s=250, what="the job is over")
    done = world.jobs.get(job.id)
    assert (done.status, done.model, done.attempt) == (JobStatus.SUCCEEDED, "fox@1", 5)
    saved = world.models.get("fox")
    assert saved.card.report["experts"].keys() == {"mixture", "lstm"}
    assert "report.svg" not in saved.card.files and "report.html" in saved.card.files
    told = [event["data"]["text"] for event in world.events(job) if event["type"] == "message"]
    for part in parts:
        assert any(
            part in text and "killed the worker's process 2 times (signal 11)" in text for text in told
        )


@pytest.mark.long  # a fault round; the choice is in test_auto_preset.py
def test_what_auto_has_chosen_survives_a_kill(world: World) -> None:
    budget = Budget(seconds=8)
    candidates = tuple(
        Candidate(
            preset=preset,
            min_steps=min_steps,
            network=NetworkConfig(units=units, embedding=8),
            training=TrainingConfig(rows=8, window=16, budget=budget),
        )
        for preset, units, min_steps in (("tiny", 16, 0), ("small", 24, 500), ("medium", 32, 2000))
    )
    worker = world.start_worker()
    job = world.send(budget, network=candidates[0].network, preset="auto", candidates=candidates)
    world.trained(job, steps=1)
    chosen = world.jobs.get(job.id)
    assert chosen.status is JobStatus.RUNNING and chosen.request.chosen_preset
    eventually(lambda: bool(world.blobs.paths(f"checkpoints/{job.id}")), what="there is a checkpoint")
    worker.kill()
    worker.wait()
    world.forget_lease(job)
    world.start_worker()
    done = world.finished(job)
    assert (done.status, done.attempt, done.request) == (JobStatus.SUCCEEDED, 2, chosen.request)
    card = world.models.get("fox").card
    assert (card.preset, card.chosen_preset) == ("auto", chosen.request.chosen_preset)
    assert (card.network, card.training) == (chosen.request.network, chosen.request.training)
    assert json.loads(world.models.get("fox").file("report.json"))["chosen_preset"] == card.chosen_preset
    sentences = [str(event["data"]) for event in world.events(job) if event["type"] == "message"]
    assert sum("auto: preset" in sentence for sentence in sentences) == 1
    assert any("continuing from the checkpoint" in sentence for sentence in sentences)


def test_a_stopped_worker_gives_its_job_back_at_once(world: World) -> None:
    worker = world.start_worker()
    job = world.send(Budget(steps=10**6))
    world.trained(job, steps=20)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0
    given_back = world.jobs.get(job.id)
    assert given_back.status is JobStatus.QUEUED
    assert world.queue.waiting() == [job.id]
    assert not world.live.has_lease(job.id)
    assert world.blobs.paths(f"checkpoints/{job.id}")


@pytest.mark.long  # compiles all kernels for another processor
def test_a_job_that_moves_to_another_processor_says_so_and_succeeds(world: World) -> None:
    levels = available_levels()
    if len(levels) < 2:
        pytest.skip("this processor has one level of instructions only")
    old = world.start_worker(isa=levels[-1])
    job = world.send(Budget(steps=1200))
    world.trained(job, steps=100)
    old.terminate()
    assert old.wait(120) == 0
    world.start_worker()
    done = world.finished(job)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)
    before, after = world.models.get("fox").card.report["numerics"]
    assert before["from_step"] == 0 < after["from_step"]
    (sentence,) = [
        event["data"]["text"] for event in world.events(job) if "other kernels" in str(event["data"])
    ]
    names = [f"{one['product']} {one['variant']}" for one in (before, after)]
    assert f"other kernels (from {names[0]} to {names[1]})" in sentence


@pytest.mark.parametrize(
    ("request_", "status"), [("cancel", JobStatus.CANCELLED), ("pause", JobStatus.PAUSED)]
)
def test_a_running_job_applies_stop_requests(world: World, request_: Any, status: JobStatus) -> None:
    world.start_worker()
    job = world.send(Budget(steps=10**6))
    world.trained(job, steps=20)
    world.live.request_stop(job.id, request_)
    eventually(lambda: world.status(job) is status, what=f"the job is {status}")
    # The record first, then the files: a job that is cut short between the two must not seem to go on.
    kept = status is JobStatus.PAUSED
    eventually(lambda: bool(world.blobs.paths("checkpoints")) == kept, what=f"checkpoints kept: {kept}")
    assert world.models.all() == []


@pytest.mark.long  # in test_training.py and test_attempt.py without a worker
def test_a_job_cancelled_with_the_best_kept_leaves_that_as_a_model(world: World) -> None:
    world.start_worker()
    job = world.send(Budget(seconds=60))
    world.trained(job, steps=20)
    world.live.request_stop(job.id, "cancel_keep_best")
    done = world.finished(job)
    assert (done.status, done.model) == (JobStatus.CANCELLED, "fox@1")
    eventually(lambda: world.blobs.paths("checkpoints") == [], what="the checkpoints go after the record")
    report = world.models.get("fox").card.report
    assert report["stopped"] == "cancel_keep_best"
    assert report["best_step"] > 0
    assert report["validation_bits_per_character"] < report["curve"][0]["validation_bits_per_character"]


@pytest.mark.long  # a fault round
def test_a_lost_job_with_cancel_keep_best_still_becomes_a_model(world: World) -> None:
    worker = world.start_worker()
    job = world.send(Budget(seconds=60))
    world.trained(job, steps=20)
    world.live.request_stop(job.id, "cancel_keep_best")
    worker.kill()
    worker.wait()
    world.forget_lease(job)
    world.start_worker()
    done = world.finished(job)
    assert (done.status, done.model) == (JobStatus.CANCELLED, "fox@1")


@pytest.mark.long  # two more jobs; test_warm_start.py has what is started from
def test_a_job_starts_from_a_model_and_its_card_says_so(world: World) -> None:
    world.start_worker()
    world.finished(world.send(Budget(steps=300)))
    with Upload(world.folder / "spool", limit_bytes=10**6) as upload:
        upload.feed(("ein schöner Fuchs. " * 100 + TEXT[:10_000]).encode())
        other, _ = Corpora(world.blobs).add(upload)
    done = world.finished(world.send(Budget(steps=50), corpus=other.id, start_from="fox@1"))
    assert done.model == "fox@2"
    first, second = (world.models.get(f"fox@{version}").card for version in (1, 2))
    assert second.started_from == "fox@1"
    assert set(first.characters) | {"ö"} <= set(second.characters)
    bits = [card.report["curve"][0]["validation_bits_per_character"] for card in (first, second)]
    assert bits[1] < bits[0] / 2  # before its first step it knows what the first one has learned


@pytest.mark.long  # two more jobs; test_mixing.py has what is mixed
def test_a_second_text_is_mixed_in_under_a_teacher_and_the_card_says_so(world: World) -> None:
    world.start_worker()
    world.finished(world.send(Budget(steps=20), name="teacher"))
    with Upload(world.folder / "spool", limit_bytes=10**6) as upload:
        upload.feed(("ein schöner Fuchs springt. " * 300).encode())
        other, _ = Corpora(world.blobs).add(upload)
    mix = Mix(corpus=other.id, teacher="teacher@1")
    done = world.finished(world.send(Budget(steps=20), mix=mix))
    assert done.model == "fox@1"
    card = world.models.get("fox").card
    assert card.mix == mix
    assert "ö" in card.characters
    assert any(
        "ö" in event["data"].get("text", "") for event in world.events(done) if event["type"] == "message"
    )


def test_a_deleted_start_model_fails_the_job(world: World) -> None:
    job = world.send(Budget(steps=10), start_from="fox@7")
    world.start_worker()
    done = world.finished(job)
    assert done.error is not None
    assert (done.status, done.error.code) == (JobStatus.FAILED, "start_from_deleted")


def test_records_are_shuffled_by_the_seed_alone_and_their_model_says_so(world: World) -> None:
    words = "".join(f"{a}{b}{c}{d}\n" for a in "abdefg" for b in "aeiou" for c in "klmnrst" for d in "aeo")
    with Upload(world.folder / "spool", limit_bytes=10**6) as upload:
        upload.feed(words.encode())
        corpus, _ = Corpora(world.blobs).add(upload)
    assert corpus.kind == "records"
    world.start_worker()
    options: dict[str, Any] = {"network": NetworkConfig(units=8, embedding=4), "corpus": corpus.id}
    jobs = [
        world.send(Budget(steps=600), name="whole", kind="records", **options),
        world.send(Budget(steps=20), name="sorted", **options),
    ]
    assert [world.finished(job).status for job in jobs] == [JobStatus.SUCCEEDED] * 2
    whole, in_order = (world.models.get(name).card for name in ("whole", "sorted"))
    assert (whole.kind, in_order.kind) == ("records", None)
    messages = [
        [e["data"]["text"] for e in EventLog(world.blobs).read(job.id) if e["type"] == "message"]
        for job in jobs
    ]
    assert any("shuffled with the job's seed" in text for text in messages[0])
    assert not any("shuffled" in text for text in messages[1])
    lines = Lines.load(world.models.get("whole").file(line_file.FILE))
    assert {lines.text(i) for i in range(len(lines))} == set(words.split())  # those held out, too
    assert line_file.FILE not in in_order.files
    assert whole.report["held_out_lines"]["repeated_share"] == 0
    assert whole.report["held_out_lines"]["compared"] == pytest.approx(63, abs=1)
    assert "held_out_lines" not in in_order.report
    # The end of the alphabet is all that the sorted text holds out: its first letter is new to the model.
    assert whole.report["baselines"]["ngram"] < in_order.report["baselines"]["ngram"]


@pytest.mark.parametrize(
    ("breakage", "code"),
    [
        (lambda world: world.blobs.delete(f"corpora/{world.corpus.id}/corpus.json"), "corpus_not_found"),
        (lambda world: world.blobs.write(f"corpora/{world.corpus.id}/text", b"short"), "corpus_damaged"),
    ],
    ids=["corpus gone", "corpus damaged"],
)
def test_a_job_that_cannot_be_done_fails_by_name(
    world: World, breakage: Callable[[World], None], code: str
) -> None:
    job = world.send(Budget(steps=10))
    breakage(world)
    world.start_worker()
    done = world.finished(job)
    assert done.status is JobStatus.FAILED
    assert done.error is not None
    assert done.error.code == code


@pytest.mark.long  # a fault round; a worker is stopped above
def test_a_pod_per_job_that_is_evicted_gives_its_job_to_the_next_with_its_checkpoint(world: World) -> None:
    job, other = world.send(Budget(steps=1500)), world.send(Budget(steps=5), name="other")
    pod = world.start_worker(max_jobs=1)
    world.trained(job, steps=300)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(timeout=500) == 0
    assert world.jobs.get(job.id).status is JobStatus.QUEUED
    assert world.queue.waiting() == [job.id, other.id]
    assert (world.jobs.checkpoint_step(job.id) or 0) >= 300
    assert world.start_worker(max_jobs=1).wait(timeout=500) == 0
    done = world.jobs.get(job.id)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)
    assert done.resumed_at_step >= 300
    assert world.queue.waiting() == [other.id]  # one job per pod


@pytest.mark.long  # a fault round; test_checkpoints.py has damaged ones
def test_a_damaged_checkpoint_costs_some_steps_and_not_the_job(world: World) -> None:
    worker = world.start_worker()
    job = world.send(Budget(steps=1500))
    world.trained(job, steps=300)
    worker.kill()
    worker.wait()
    newest = world.blobs.paths(f"checkpoints/{job.id}")[-1]
    world.blobs.write(newest, b"\0" * 100)
    world.end_lease(job)
    world.start_worker()
    assert world.finished(job).status is JobStatus.SUCCEEDED
    assert any("is damaged" in str(event["data"]) for event in world.events(job))


def test_lease_is_released_where_there_is_nothing_to_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(world.folder))
    monkeypatch.setenv("NEXTCHAR_REDIS_URL", world.redis_url)
    monkeypatch.setattr(queue, "die_with_parent", lambda: None)
    job = world.send(Budget(steps=1))
    world.jobs.move(job, JobStatus.PAUSED)
    tasks.train(job.id)
    assert not world.live.has_lease(job.id)


@pytest.mark.skipif(sys.platform != "linux", reason="only there children are told of their parent's death")
@pytest.mark.parametrize(("parent", "trains"), [("1", True), ("4", False)])
def test_child_trains_under_any_parent_but_that_of_an_orphan(parent: str, trains: bool) -> None:
    """The worker is process 1 in a container that has no init process."""
    child = (
        "import os; os.getppid = lambda: 1; "
        "from nextchar.store import queue; queue.die_with_parent(); print('!')"
    )
    environment = {**os.environ, queue.PARENT_PID: parent}
    done = subprocess.run(
        [sys.executable, "-c", child], env=environment, cwd=ROOT, capture_output=True, check=False
    )
    assert (done.stdout == b"!\n") == trains
    assert (done.returncode == 0) == trains


@pytest.mark.long  # a fault round; test_attempt.py has it without a worker
def test_training_that_is_over_is_not_done_again_when_it_can_be_published(world: World) -> None:
    in_the_way = world.folder / "store" / "model_files"
    in_the_way.write_bytes(b"")
    worker_job = world.send(Budget(steps=40))
    world.start_worker()
    eventually(lambda: world.status(worker_job) is JobStatus.PAUSED, what="the job waits for storage")
    assert world.jobs.checkpoint_step(worker_job.id) == 40
    in_the_way.unlink()
    done = world.finished(worker_job)
    assert (done.status, done.model, done.attempt) == (JobStatus.SUCCEEDED, "fox@1", 2)
    steps = [event["data"]["step"] for event in world.events(worker_job) if event["type"] == "metrics"]
    assert steps == sorted(set(steps))
    assert any("the storage works again" in str(event["data"]) for event in world.events(worker_job))


def test_a_worker_that_is_older_than_the_record_leaves_the_job_to_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    job = world.send(Budget(steps=1))
    path = f"jobs/{job.id}/000000.json"
    record = json.loads(world.blobs.read(path))
    record["request"]["of_a_later_release"] = 1
    world.blobs.write(path, json.dumps(record).encode())
    settings = WorkerSettings(data_dir=world.folder, redis_url=world.redis_url)
    tasks._train(job.id, settings)
    assert "newer version of nextchar" in caplog.text and "upgrade this process" in caplog.text
    assert world.blobs.paths(f"jobs/{job.id}") == [path], "it is still queued"
    assert world.live.acquire_lease(job.id, "another worker")
