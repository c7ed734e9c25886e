"""Every kind of record is there, whole, after a loss of power at any moment: docs/reference/durability.md.

The system calls of each call that makes, replaces or deletes a record are recorded. Each prefix of them is
replayed with every combination of what the disk may have lost or kept of what was not synced.
"""

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from nextchar.app.backup import FOLDERS
from nextchar.app.jobs.control import JobControl
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest.records import Batch, LineMeta, NewLine
from nextchar.app.logs.ingest.stream import IngestStreams
from nextchar.app.logs.notifications.targets import NotificationTargets
from nextchar.app.openai.batches import Batches, BatchStatus
from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.store.calibrations import Calibrations
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.corpus_names import CorpusOwners
from nextchar.store.jobs import Jobs, JobStatus
from nextchar.store.live import EventLog, Live
from nextchar.store.local_blobs import LocalBlobs
from nextchar.store.models import Models
from nextchar.store.queue import TrainingQueue
from nextchar.worker.checkpoints import Checkpoint, Checkpoints
from tests.app.access.audit_trail import record_call
from tests.app.logs.alerts.occurrences import one
from tests.models.runtime.networks import saved_model
from tests.store.power_loss import DiskThatSyncsNothing, Operation, RecordingDisk, left_after
from tests.store.test_calibrations import NORMAL, OTHER
from tests.store.test_jobs import REQUEST
from tests.store.test_models import FILES, _card

MAX_EXHAUSTIVE = 7  # operations of which every subset is tried; of more, each alone and all but each
BY_THE_SAME_CALLS = {
    "openai_jobs",
    "openai_joined",
    "openai_files",
    "early_models",
    "line_counts",
}  # of the storage

Files = dict[str, bytes]


@dataclass
class Step:
    """One acknowledged call: the operations it made, and the objects before and after it."""

    name: str
    first: int
    end: int
    before: Files
    after: Files


class Recording:
    """Makes calls on a storage, and records each."""

    def __init__(self, folder: Path, disk: RecordingDisk) -> None:
        self.folder, self.disk = folder, disk
        self.blobs = LocalBlobs(folder, disk=disk)
        self.steps: list[Step] = []

    def do(self, name: str, call: Callable[[], object]) -> None:
        first, before = len(self.disk.operations), self.files()
        call()
        self.steps.append(Step(name, first, len(self.disk.operations), before, self.files()))

    def files(self) -> Files:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        found = {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}
        return {path: data for path, data in found.items() if _is_object(path)}


def _is_object(path: str) -> bool:
    return not path.startswith(".tmp/")


def make_every_record(recording: Recording, spool: Path, redis: Redis) -> None:
    """Make, replace and delete a record of every kind."""
    do, blobs = recording.do, recording.blobs
    corpora, jobs, models = Corpora(blobs), Jobs(blobs), Models(blobs)

    def upload(text: bytes, name: str | None) -> str:
        with Upload(spool, limit_bytes=10**6) as upload:
            upload.feed(text)
            return corpora.add(upload, name=name)[0].id

    do("upload a corpus", lambda: upload(b"a text\n" * 50, "first"))
    corpus = corpora.id_of("first")
    do("upload it again under another name", lambda: upload(b"a text\n" * 50, "second"))
    do("upload another text under its name", lambda: upload(b"another text\n" * 50, "first"))
    do("set the kind of a corpus", lambda: corpora.set_kind(corpus, "records"))
    do("set it as a key sees it", lambda: corpora.set_kind(corpus, "log", key_name="ann"))
    do("note the owner of a corpus", lambda: CorpusOwners(blobs).add(corpus, "ann", is_new=False))

    control = JobControl(blobs, jobs, Live(redis), TrainingQueue(redis), redis)
    request = REQUEST.model_copy(update={"corpus": corpus})
    do("submit a job", lambda: control.submit(request, key="key", body=b"{}"))
    (job,) = jobs.all()
    do("move a job", lambda: jobs.move(job, JobStatus.RUNNING, attempt=1))
    checkpoints = Checkpoints(blobs, job.id)
    for step in (1, 2, 3, 4):
        checkpoint = Checkpoint(step, {"w": np.full(30, step)}, {"step": step})
        do(f"save checkpoint {step}", lambda checkpoint=checkpoint: checkpoints.save(checkpoint))  # type: ignore[misc]
    for count in (1, 2):
        events = [{"id": number} for number in range(count)]
        do("write the events of a job", lambda events=events: EventLog(blobs).write(job.id, events))  # type: ignore[misc]

    for number in (1, 2):
        do("publish a model", lambda n=number: models.publish(_card(number=n), FILES, attempt=1))  # type: ignore[misc]
    for version in (1, 2):
        after = models.aliases.newest("m", "champion")
        do("move an alias", lambda v=version, a=after: models.aliases.move("m", "champion", v, after=a))  # type: ignore[misc]
    calibrations, model = Calibrations(blobs), saved_model()
    for calibration in (NORMAL, OTHER):
        do(
            "save a calibration",
            lambda one=calibration: calibrations.save(model, "default", one, source="lines"),  # type: ignore[misc]
        )
    do("delete a calibration", lambda: calibrations.delete(model, "default"))
    do("rename a model", lambda: models.rename("m@1", "n"))
    do("delete a model", lambda: models.delete("n@1"))

    alerts = Alerts(redis, blobs)
    alerts.record([one()])
    (alert,) = alerts.all("m")
    do("label an alert", lambda: alerts.label("m", alert.id, "incident", by="ann"))
    do("acknowledge an alert", lambda: alerts.acknowledge("m", alert.id, by="ann"))
    do("suppress alerts", lambda: alerts.suppress("m", alert.id, until=2e9, by="ann"))
    targets = NotificationTargets(blobs)
    do(
        "add a notification target",
        lambda: targets.create("webhook", "https://example.com/", models=(), min_severity="info"),
    )
    do("delete a corpus", lambda: corpora.delete(corpus))
    make_batch(recording, redis)
    do(
        "record who did what",
        lambda: record_call(blobs, f"/v1/corpora/{corpus}", action="delete_corpus", key="ann"),
    )


def make_batch(recording: Recording, redis: Redis) -> None:
    """Create, answer and end a batch."""
    do, batches = recording.do, Batches(recording.blobs, redis)
    about = {"endpoint": "/v1/completions", "input_file": "corpus_000000000000", "completion_window": "24h"}
    do("create a batch", lambda: batches.create(**about, created_at=1, expires_at=2))
    (batch,) = batches.all()
    do("write requests of a batch", lambda: batches.write_input(batch.id, 0, [b"{}"]))
    do("answer requests of a batch", lambda: batches.create_answers(batch, 0, [b"{}"]))
    do("move a batch", lambda: batches.move(batch, BatchStatus.CANCELLED))


def losses(recording: Recording) -> Iterator[str]:
    """Yield what is wrong after a loss of power, of each step at most once."""
    for step in recording.steps:
        found = next(_losses_in(step, recording.disk.operations, recording.folder), None)
        if found:
            yield found


def _losses_in(step: Step, operations: list[Operation], root: Path) -> Iterator[str]:
    allowed = _allowed(step, operations, root)
    seen = set()
    for cut in range(step.first, step.end + 1):
        uncertain = [n for n in range(cut) if _is_uncertain(operations[n], cut)]
        for kept in _subsets(uncertain):
            left = left_after(operations, cut, lambda n, _, kept=kept: n in kept, root)  # type: ignore[misc]
            objects = {path: data for path, data in left.items() if _is_object(path)}
            state = (cut == step.end, frozenset(objects.items()))
            if state in seen:
                continue
            seen.add(state)
            if cut == step.end and objects != step.after:
                yield f"{step.name}: acknowledged, and {_difference(objects, step.after)}"
            for path in allowed.keys() | objects.keys():
                if objects.get(path) not in allowed.get(path, {step.before.get(path)}):
                    yield f"{step.name}: after {cut - step.first} operations {path} is neither old nor new"


def _allowed(step: Step, operations: list[Operation], root: Path) -> dict[str, set[bytes | None]]:
    """Return which contents of each path a reader may see during a step; None: no object."""
    found: dict[str, set[bytes | None]] = {
        path: {step.before.get(path), step.after.get(path)} for path in step.before.keys() | step.after.keys()
    }
    contents: dict[int, bytes] = {}
    for number, operation in enumerate(operations[: step.end]):
        if operation.inode is None:
            continue
        if operation.kind == "data":
            contents[operation.inode] = contents.get(operation.inode, b"") + operation.data
        elif number >= step.first and operation.folder is not None:  # a whole file gets a name
            path = str((operation.folder / operation.name).relative_to(root))
            found.setdefault(path, {None}).add(contents.get(operation.inode, b""))
    return found


def _is_uncertain(operation: Operation, cut: int) -> bool:
    is_durable = operation.durable_at is not None and operation.durable_at <= cut
    return operation.kind != "sync" and not is_durable


def _subsets(numbers: list[int]) -> Iterator[frozenset[int]]:
    everything = frozenset(numbers)
    if len(numbers) <= MAX_EXHAUSTIVE:
        for size in range(len(numbers) + 1):
            yield from map(frozenset, itertools.combinations(numbers, size))
        return
    yield from (frozenset(), everything)
    for number in numbers:
        yield from (frozenset({number}), everything - {number})


def _difference(found: Files, expected: Files) -> str:
    paths = sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))
    return f"{paths} differ"


@pytest.fixture
def record(tmp_path: Path, clean_redis_url: str) -> Callable[[RecordingDisk], Recording]:
    def run(disk: RecordingDisk) -> Recording:
        recording = Recording(tmp_path / "store", disk)
        with Redis.from_url(clean_redis_url, decode_responses=True) as redis:
            make_every_record(recording, tmp_path / "spool", redis)
        return recording

    return run


@pytest.mark.long  # thousands of losses; test_power_loss.py has the life of a corpus, a job and a model
def test_every_kind_of_record_is_old_or_new_after_a_power_loss_and_new_once_acknowledged(
    record: Callable[[RecordingDisk], Recording],
) -> None:
    recording = record(RecordingDisk())
    assert list(losses(recording)) == []
    made = {path.partition("/")[0] for step in recording.steps for path in step.after}
    assert made == set(FOLDERS) - BY_THE_SAME_CALLS


class DiskThatSyncsFilesAlone(RecordingDisk):
    """Contents are on the disk, and the names that were given to them are not for sure."""

    def sync(self, descriptor: int) -> None:
        if not self._opened[descriptor].is_dir():
            super().sync(descriptor)


class DiskThatSyncsFoldersAlone(RecordingDisk):
    """Names are on the disk, and the contents that they were given to are not for sure."""

    def sync(self, descriptor: int) -> None:
        if self._opened[descriptor].is_dir():
            super().sync(descriptor)


@pytest.mark.long
@pytest.mark.parametrize(
    "disk",
    [DiskThatSyncsNothing, DiskThatSyncsFilesAlone, DiskThatSyncsFoldersAlone],
    ids=lambda d: d.__name__,
)
def test_without_some_of_the_syncs_records_are_lost(
    record: Callable[[RecordingDisk], Recording], disk: type[RecordingDisk]
) -> None:
    recording = record(disk())
    found = list(losses(recording))
    writes = [step for step in recording.steps if not step.name.startswith("delete")]
    assert len(found) >= len(writes)


def test_accepted_lines_are_there_wherever_redis_append_only_file_is_cut_after_them(tmp_path: Path) -> None:
    """A power loss cuts the file somewhere after what was synced; accepted lines are before that."""
    sizes, accepted = [], 0
    with EmbeddedValkey(tmp_path / "first") as valkey, Redis.from_url(valkey.url) as redis:
        streams = IngestStreams(redis)
        (file,) = (tmp_path / "first" / "valkey").rglob("*.incr.aof")
        for number in range(4):
            lines = [NewLine(f"line {number} {i}".encode(), LineMeta()) for i in range(3)]
            streams.accept([Batch("m", lines)])
            accepted += len(lines)
            sizes.append((accepted, file.stat().st_size))
        folder = tmp_path / "cut"
        (folder / "valkey").mkdir(parents=True)
        shutil.copytree(file.parent, folder / "valkey" / file.parent.name)
    whole = file.read_bytes()
    for (accepted, size), (more, next_size) in itertools.pairwise(sizes):
        for cut in (size, (size + next_size) // 2, next_size - 1):
            (folder / "valkey" / file.parent.name / file.name).write_bytes(whole[:cut])
            with EmbeddedValkey(folder) as valkey, Redis.from_url(valkey.url) as redis:
                found = IngestStreams(redis).waiting("m")
                assert found in (accepted, more), f"{found} lines after a cut at {cut}: {accepted} accepted"


def test_the_table_names_every_folder_of_the_storage() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/durability.md").read_text()
    rows = [row.split("|")[1:-1] for row in page.splitlines() if row.startswith("| ")]
    named = {folder for row in rows for folder in re.findall(r"`store/([a-z_]+)/", row[1])}
    assert named == set(FOLDERS)
