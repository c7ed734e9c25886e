"""An installation is backed up while it changes, and restored into an empty one."""

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from nextchar.app import backup
from nextchar.app.backup import FOLDERS, back_up, connect, read_key, restore
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.decisions import Decision, Suppression
from nextchar.app.logs.notifications.targets import NotificationTargets
from nextchar.app.logs.room import follow_model
from nextchar.app.openai.batches import Batch, Batches, BatchStatus
from nextchar.models.errors import Conflict, InvalidInput
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.jobs import Jobs, JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.fakes import publish
from tests.app.logs.alerts.occurrences import GROUP, one
from tests.app.openai.test_batches import ABOUT
from tests.every_call import every_call
from tests.store.test_jobs import REQUEST

KEY = "nextchar:ingest:x"


class Installation:
    """Some of everything, in one storage and one Redis."""

    def __init__(self, blobs: Blobs, redis_url: str, spool: Path) -> None:
        self.blobs, self.spool = blobs, spool
        self.redis = connect(redis_url)
        self.jobs, self.models, self.corpora = Jobs(blobs), Models(blobs), Corpora(blobs)
        self.decoding = Redis.from_url(redis_url, decode_responses=True)
        self.alerts = Alerts(self.decoding, blobs)

    def fill(self) -> None:
        corpus = self.upload(b"a text\n" * 100)
        self.corpora.owners.add(corpus, "ann", is_new=True)
        job = self.jobs.move(self.jobs.create(REQUEST), JobStatus.RUNNING)
        self.blobs.write(f"checkpoints/{job.id}/0000000007.npz", b"checkpoint")
        self.blobs.write(f"events/{job.id}.jsonl", b"{}\n")
        for _ in range(2):
            publish(self.models)
        self.models.aliases.move("fake", "champion", 1, after=None)
        NotificationTargets(self.blobs).create("webhook", "http://x", models=(), min_severity="info")
        self.alerts.record([one(model="fake")])
        self.alerts.label("fake", GROUP.alert_id("fake"), "incident", by="ann")
        self.redis.xadd("nextchar:ingest:fake", {"lines": b"\x00\xff"})
        self.redis.xgroup_create("nextchar:ingest:fake", "scoring", "0")
        self.redis.set("nextchar:job:x:lease", "process")

    def close(self) -> None:
        self.redis.close()
        self.decoding.close()

    def upload(self, text: bytes) -> str:
        with Upload(self.spool, limit_bytes=1 << 20) as upload:
            upload.feed(text)
            return self.corpora.add(upload, name=None)[0].id

    def check_references(self, *, deleted: frozenset[str] = frozenset()) -> None:
        """Check that all that a record refers to is there; aliases may be of `deleted` versions."""
        for card in self.models.all():
            saved = self.models.get(card.reference)
            for name in card.files:
                saved.file(name)
        for move in self.models.aliases.current():
            assert move.target in deleted or self.models.get(move.target or "")
        for corpus in self.corpora.all():
            assert b"".join(self.corpora.stream(corpus.id))
        for job in self.jobs.all():
            assert self.jobs.get(job.id)


@pytest.fixture
def source(tmp_path: Path, clean_redis_url: str) -> Iterator[Installation]:
    made = Installation(open_blobs((tmp_path / "source").as_uri()), clean_redis_url, tmp_path)
    made.fill()
    yield made
    made.close()


@pytest.fixture
def empty(tmp_path: Path, clean_redis_url: str) -> Iterator[Installation]:
    """Another installation, on another database of the same Redis server."""
    url = clean_redis_url.replace("db=0", "db=1").removesuffix("/0")
    url = url if "db=1" in url else f"{url}/1"
    made = Installation(open_blobs("memory:///"), url, tmp_path)
    made.redis.flushdb()
    yield made
    made.close()


def backup_of(installation: Installation) -> io.BytesIO:
    file = io.BytesIO()
    back_up(installation.blobs, installation.redis, file)
    return file


def redis_keys(backup: io.BytesIO) -> list[str]:
    """Return the keys of Redis in a backup, in their order."""
    backup.seek(0)
    with tarfile.open(fileobj=backup) as tar:
        lines = (tar.extractfile("redis.jsonl") or io.BytesIO()).readlines()
    return [json.loads(line)["key"] for line in lines]


def contents(blobs: Blobs) -> dict[str, bytes]:
    return {path: blobs.read(path) for folder in FOLDERS for path in blobs.paths(folder)}


def test_a_restored_installation_is_as_the_one_that_was_backed_up(
    source: Installation, empty: Installation
) -> None:
    file = backup_of(source)
    totals = restore(empty.blobs, empty.redis, file)
    assert contents(empty.blobs) == contents(source.blobs)
    assert totals.objects == len(contents(source.blobs))
    empty.check_references()
    assert empty.models.resolve("fake@champion") == ("fake", 1)
    [alert] = empty.alerts.all("fake")
    assert (alert.label, alert.figures.count) == ("incident", 1)
    assert empty.redis.xlen("nextchar:ingest:fake") == 1
    [group] = empty.redis.xinfo_groups("nextchar:ingest:fake")  # type: ignore[misc]
    assert group["name"] == "scoring"
    assert not empty.redis.exists("nextchar:job:x:lease"), "what a process held is not restored"
    ttl_s = empty.redis.ttl(f"nextchar:alert:{GROUP.alert_id('fake')}")
    assert 0 < ttl_s <= 30 * 86_400  # type: ignore[operator]


def test_every_folder_of_a_storage_is_backed_up(source: Installation, tmp_path: Path) -> None:
    kept = {folder.name for folder in (tmp_path / "source").iterdir() if not folder.name.startswith(".")}
    assert kept <= set(FOLDERS)


class Busy(Blobs):
    """A storage in which something happens before each of its reads and listings."""

    def __init__(self, blobs: Blobs, meanwhile: Callable[[], None]) -> None:
        self._blobs, self._meanwhile = blobs, meanwhile

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        if name in ("paths", "stream"):
            self._meanwhile()
        return getattr(self._blobs, name)


Busy.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def test_what_is_deleted_during_a_backup_is_not_in_it_or_whole(
    source: Installation, tmp_path: Path, clean_redis_url: str
) -> None:
    """At each of its steps a model and a corpus are deleted."""
    for call in every_call(more_than=20, step=3):
        publish(source.models, name="doomed")
        corpus = source.upload(b"doomed\n" * 90)

        def doom(corpus: str = corpus) -> None:
            source.models.delete("doomed")
            source.corpora.delete(corpus)

        file = io.BytesIO()
        back_up(call.blobs(source.blobs, doom), source.redis, file)
        restored = Installation(open_blobs("memory:///"), clean_redis_url, tmp_path)
        source.redis.flushdb()
        restore(restored.blobs, restored.redis, file)
        restored.check_references()


@pytest.mark.parametrize(
    "names",
    [
        ("b",),
        ("zz", "c"),
        *(pytest.param(names, marks=pytest.mark.long) for names in (("zz",), ("b", "zz"), ("b", ""))),
    ],
)
def test_a_model_that_is_renamed_during_a_backup_is_in_it_with_its_labels(
    tmp_path: Path, clean_redis_url: str, names: tuple[str, ...]
) -> None:
    """At each step a model is renamed, perhaps again, or deleted then; its alerts follow."""
    first = Installation(open_blobs("memory:///"), clean_redis_url, tmp_path)
    first.alerts.record([one()])
    [alert] = first.alerts.all("m")
    decision = Decision(changed_at=1.0, label="incident", figures=alert.figures)
    first.redis.flushdb()
    first.close()
    for call in every_call(more_than=20):
        source, restored = (
            Installation(open_blobs("memory:///"), clean_redis_url, tmp_path) for _ in range(2)
        )
        card = publish(source.models, name="m")
        source.alerts.decisions.change("m", alert.id, lambda _: decision)
        source.alerts.decisions.suppress(Suppression(model="m", template="x", until=1.0, created_by="ann"))

        def rename(made: Installation = source) -> None:
            for last, name in itertools.pairwise(("m", *names)):
                made.models.rename(last, name) if name else made.models.delete(last)
                follow_model(made.models, made.alerts, last)

        file = io.BytesIO()
        back_up(call.blobs(source.blobs, rename), source.redis, file)
        restore(restored.blobs, restored.redis, file)
        restored.check_references()
        for name in restored.alerts.decisions.models():
            follow_model(restored.models, restored.alerts, name)
        found = restored.models.all()
        assert {model.id for model in found} == {card.id} or (names[-1] == "" and not found)
        assert len(found) <= 1
        for name in (model.name for model in found):
            assert [label.label for label in restored.alerts.labels(name).values()] == ["incident"]
            assert len(restored.alerts.decisions.suppressions(name)) == 1
        left = restored.alerts.decisions.models()
        assert left <= {model.name for model in found}
        source.close()
        restored.close()


@pytest.mark.parametrize("is_finalizing", [False, True])
def test_a_batch_that_ends_during_a_backup_is_whole_in_it_or_runs_again(
    tmp_path: Path, clean_redis_url: str, is_finalizing: bool
) -> None:
    """At each step of the backup the batch ends, and its chunks are deleted."""
    seen = set()
    for call in every_call(more_than=20):
        source, restored = (
            Installation(open_blobs("memory:///"), clean_redis_url, tmp_path) for _ in range(2)
        )
        batches = Batches(source.blobs, source.decoding)
        made = batches.create(**ABOUT | {"input_file": source.upload(b"{}\n{}\n")})
        for chunk in range(2):
            batches.write_input(made.id, chunk, [b"{}"])
        running = batches.move(made, BatchStatus.IN_PROGRESS, chunk_sizes=(1, 1))
        batches.create_answers(running, 0, [b"+"])
        if is_finalizing:
            running = batches.move(running, BatchStatus.FINALIZING, included=(0,))

        def end(batches: Batches = batches, batch: Batch = running) -> None:
            if batch.status is BatchStatus.IN_PROGRESS:
                batch = batches.move(batch, BatchStatus.FINALIZING, included=(0,))
            batches.move(batch, BatchStatus.COMPLETED)
            batches.delete_chunks(batch.id)

        file = io.BytesIO()
        back_up(call.blobs(source.blobs, end), source.redis, file)
        restore(restored.blobs, restored.redis, file)
        found = Batches(restored.blobs, restored.decoding).get(made.id)
        seen.add(found.status)
        assert restored.corpora.get(found.input_file)
        if not found.has_ended and found.status is not BatchStatus.VALIDATING:
            assert found == running and set(found.chunk_paths) <= set(restored.blobs.paths("batch_chunks"))
        source.close()
        restored.close()
    assert seen == {BatchStatus.COMPLETED, BatchStatus.VALIDATING, running.status}


def test_a_restoration_that_was_interrupted_can_be_repeated(
    source: Installation, empty: Installation
) -> None:
    file = backup_of(source)

    for call in every_call(more_than=30, first=len(FOLDERS) + 1, step=5):
        with call.dying():
            restore(call.blobs(empty.blobs), empty.redis, file)
        empty.check_references()
    assert contents(empty.blobs) == contents(source.blobs)


def test_nothing_is_restored_over_anything_else(source: Installation, empty: Installation) -> None:
    file = backup_of(source)
    publish(empty.models, name="mine")
    before = contents(empty.blobs)
    with pytest.raises(Conflict) as caught:
        restore(empty.blobs, empty.redis, file)
    assert caught.value.code == "not_empty" and contents(empty.blobs) == before
    source.alerts.record([one(model="fake")])
    with pytest.raises(Conflict, match="Redis is not empty"):
        restore(open_blobs("memory:///"), source.redis, file)


def repacked(file: io.BytesIO, change: Callable[[tarfile.TarInfo, bytes], bytes | None]) -> io.BytesIO:
    """Return an archive with other contents of its entries."""
    out = io.BytesIO()
    file.seek(0)
    with tarfile.open(fileobj=file) as old, tarfile.open(fileobj=out, mode="w") as new:
        for entry in old:
            content = old.extractfile(entry)
            assert content is not None
            data = change(entry, content.read())
            if data is not None:
                entry.size = len(data)
                new.addfile(entry, io.BytesIO(data))
    return out


def test_a_damaged_backup_is_refused_before_anything_is_written(
    source: Installation, empty: Installation
) -> None:
    whole = backup_of(source)
    size = len(whole.getvalue())
    name = "model_files/"
    changed = repacked(whole, lambda e, data: data[::-1] if name in e.name else data)
    without = repacked(whole, lambda e, data: None if name in e.name else data)
    newer = repacked(
        whole, lambda e, data: json.dumps({"format_version": 9}).encode() if "nextchar-b" in e.name else data
    )
    bad = {
        "incomplete": io.BytesIO(whole.getvalue()[: size // 2]),
        "damaged or missing": changed,
        "is damaged or": without,
        "format 9": newer,
        "cannot be read": io.BytesIO(b"a text\n" * 1000),
        "no header": repacked(whole, lambda e, data: None if "nextchar-b" in e.name else data),
    }
    for problem, file in bad.items():
        file.seek(0)
        with pytest.raises(InvalidInput) as caught:
            restore(empty.blobs, empty.redis, file)
        assert problem in caught.value.message or problem == "incomplete", problem
        assert contents(empty.blobs) == {}


@pytest.mark.parametrize("path", ["storage/../../etc/passwd", "storage/other/x", "etc/passwd", "/etc/passwd"])
def test_an_archive_writes_nowhere_else(empty: Installation, path: str) -> None:
    file = io.BytesIO()
    totals = backup.Totals()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        header = json.dumps({"format_version": 2}).encode()
        backup._add(tar, totals, "nextchar-backup.json", [header])
        backup._add(tar, totals, path, [b"x"])
        lines = [json.dumps(entry).encode() + b"\n" for entry in totals.entries]
        backup._add(tar, totals, "manifest.jsonl", lines)
    file.seek(0)
    with pytest.raises(InvalidInput, match="no backup has"):
        restore(empty.blobs, empty.redis, file)


def test_waiting_lines_are_copied_before_the_alerts_that_they_may_become(source: Installation) -> None:
    kinds = [key.split(":")[1] for key in redis_keys(backup_of(source))]
    ingested = kinds.count("ingest")
    assert 0 < ingested < len(kinds) and set(kinds[:ingested]) == {"ingest"}


def test_a_key_that_expires_during_a_backup_is_not_in_it(
    source: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.redis.set("nextchar:ingest:request:x", "1", px=5_000_000)
    source.redis.xadd("nextchar:ingest:request:y", {"x": "y"})
    type_of = source.redis.type

    def find_and_expire(key: str) -> object:
        found = type_of(key)
        if ":request:" in key:
            source.redis.delete(key)
        return found

    monkeypatch.setattr(source.redis, "type", find_and_expire)
    keys = redis_keys(backup_of(source))
    assert keys and not any(":request:" in key for key in keys)


def test_what_a_new_service_makes_at_once_does_not_prevent_a_restoration(
    source: Installation, empty: Installation
) -> None:
    file = backup_of(source)
    empty.redis.set("nextchar:notifications:lease", "a process")
    empty.redis.sadd("nextchar:notifications:records", "jobs/x/0")
    restore(empty.blobs, empty.redis, file)
    empty.redis.flushdb()
    empty.redis.set("nextchar:ingest:x", "something else")
    with pytest.raises(Conflict, match="it has nextchar:ingest:x") as caught:
        restore(open_blobs("memory:///"), empty.redis, file)
    assert caught.value.code == "not_empty"


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "hash", "stream"])
def test_a_key_of_each_type_is_restored(source: Installation, empty: Installation, kind: str) -> None:
    members = [f"member {i}" for i in range(300)]
    match kind:
        case "string":
            source.redis.set(KEY, "x")
        case "list":
            source.redis.rpush(KEY, *members)
        case "set":
            source.redis.sadd(KEY, *members)
        case "zset":
            source.redis.zadd(KEY, {member: len(member) for member in members})
        case "hash":
            source.redis.hset(KEY, mapping=dict.fromkeys(members, "x"))
        case "stream":
            source.redis.xadd(KEY, {"a": "b"}, id="1-1")
    restore(empty.blobs, empty.redis, backup_of(source))
    assert read_key(empty.redis, KEY) == read_key(source.redis, KEY)


def test_the_record_of_a_corpus_without_its_text_is_not_in_a_backup(
    source: Installation, empty: Installation
) -> None:
    [corpus] = source.corpora.all()
    other = source.upload(b"another text\n" * 9)
    source.blobs.delete(f"corpora/{other}/text")
    restore(empty.blobs, empty.redis, backup_of(source))
    assert [found.id for found in empty.corpora.all()] == [corpus.id]
    assert not empty.blobs.paths(f"corpora/{other}")


def test_texts_come_before_the_records_and_names_of_corpora(source: Installation) -> None:
    file = backup_of(source)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        names = tar.getnames()
    assert names[0] == "nextchar-backup.json" and names[-2:] == ["redis.jsonl", "manifest.jsonl"]
    kinds = [name.rpartition("/")[2] for name in names if name.startswith("storage/corpora/")]
    assert kinds == ["text", "corpus.json"]
    folders = [name.split("/")[1] for name in names if name.startswith("storage/")]
    assert folders == sorted(folders, key=lambda name: -FOLDERS.index(name))


def test_an_archive_with_a_link_is_refused(source: Installation, empty: Installation) -> None:
    file = backup_of(source)
    out = io.BytesIO()
    file.seek(0)
    with tarfile.open(fileobj=file) as old, tarfile.open(fileobj=out, mode="w") as new:
        for entry in old:
            if entry.name.startswith("storage/model_files/"):
                entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0
                new.addfile(entry)
            else:
                new.addfile(entry, old.extractfile(entry))
    out.seek(0)
    with pytest.raises(InvalidInput, match="that is not a file") as caught:
        restore(empty.blobs, empty.redis, out)
    assert caught.value.code == "backup_invalid" and contents(empty.blobs) == {}


@pytest.mark.parametrize("broken", [{"type": "lists"}, {"value": 5}, {"ttl_ms": "x"}, {"value": {"a": {}}}])
def test_a_key_that_cannot_be_read_is_refused_before_anything_is_written(
    empty: Installation, broken: dict[str, Any]
) -> None:
    key = {"key": "nextchar:ingest:x", "type": "stream", "value": {}, "ttl_ms": 0}
    line = json.dumps(key | broken).encode()
    file, totals = io.BytesIO(), backup.Totals()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (
            ("nextchar-backup.json", b'{"format_version": 2}'),
            ("storage/corpora/x/text", b"text"),
            ("redis.jsonl", line),
        ):
            backup._add(tar, totals, name, [content])
        lines = [json.dumps(entry).encode() + b"\n" for entry in totals.entries]
        backup._add(tar, totals, "manifest.jsonl", lines)
    with pytest.raises(InvalidInput, match="cannot be read"):
        restore(empty.blobs, empty.redis, file)
    assert contents(empty.blobs) == {} and empty.redis.dbsize() == 0
