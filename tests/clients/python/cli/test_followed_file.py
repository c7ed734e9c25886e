"""A log is read through rotation, also by the next process, without a line lost or read twice."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nextchar.cli import watch as followed_file
from nextchar.cli.watch import FollowedFile

HEAD = "the first line of a log, which tells it from others\n"
MAX_BYTES = 1 << 16


@dataclass
class Follower:
    """Follows a log, in one process after the other."""

    log: Path
    from_start: bool = True
    notes: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.file = self._start()

    def _start(self) -> FollowedFile:
        return FollowedFile(self.log, "http://a", "m", self.notes.append, from_start=self.from_start)

    def restart(self) -> None:
        os.close(self.file._lock)  # as the end of a process does
        self.file = self._start()

    def read_all(self, max_bytes: int = MAX_BYTES) -> str:
        """Return what is there now, in however many reads; one without lines may open the next file."""
        text, empty = "", 0
        while empty < 2:
            if (found := self.file.read(max_bytes)) is None:
                empty += 1
            else:
                text += found[0].decode()
                self.keys.append(found[1])
                self.file.advance()
                empty = 0
        return text


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(followed_file, "_GRACE_S", 0.0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "nextchar" / "watch"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_text(HEAD)
    return path


@pytest.fixture
def followed(log: Path) -> Follower:
    return Follower(log)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def rename(log: Path) -> None:
    log.rename(log.with_name("app.log.1"))


def copytruncate(log: Path) -> None:
    shutil.copy(log, log.with_name("app.log.1"))
    os.truncate(log, 0)


def test_lines_come_once_they_are_complete(log: Path, followed: Follower) -> None:
    assert followed.read_all() == HEAD
    append(log, "a\nb")
    assert followed.read_all() == "a\n"
    append(log, "c\n")
    assert followed.read_all() == "bc\n"


def test_a_log_is_read_from_its_end_unless_it_is_new(log: Path) -> None:
    append(log, "half a ")
    followed = Follower(log, from_start=False)
    assert followed.read_all() == ""
    append(log, "line\n")
    assert followed.read_all() == "half a line\n"
    late = Follower(log.with_name("late.log"), from_start=False)
    assert late.read_all() == ""
    late.log.write_text("first\n")
    assert late.read_all() == "first\n"


def test_a_log_that_appears_while_none_follows_is_read_from_its_start(log: Path) -> None:
    late = Follower(log.with_name("late.log"), from_start=False)
    assert not late.file.open()
    late.file.save()
    late.log.write_text("first\n")
    late.restart()
    assert late.read_all() == "first\n"


@pytest.mark.parametrize("max_bytes", [MAX_BYTES, 10])
def test_what_was_not_sent_is_read_again_with_the_same_key(
    log: Path, followed: Follower, max_bytes: int
) -> None:
    first = followed.file.read(max_bytes)
    append(log, "more\n")
    assert followed.file.read(max_bytes) == first
    followed.restart()
    assert followed.file.read(max_bytes) == first
    followed.file.advance()
    assert first is not None
    parts = first[0].decode() + followed.read_all()
    assert parts.replace("\n", "") == HEAD.rstrip() + "more"


def test_a_state_of_an_earlier_release_is_continued(log: Path, followed: Follower, state: Path) -> None:
    append(log, "sent, perhaps\n")
    followed.file.save()
    [file] = state.glob("*.json")
    status = log.stat()
    saved = {
        "version": 1,
        "server": "http://a",
        "model": "m",
        "path": str(log),
        "position": {
            "device": status.st_dev,
            "inode": status.st_ino,
            "offset": len(HEAD),
            "head": hashlib.sha256(HEAD.encode()).hexdigest(),
            "head_bytes": len(HEAD),
            "generation": 3,
        },
        "sending_to": len(HEAD) + 14,
        "printed": 41,
    }
    file.write_text(json.dumps(saved))
    append(log, "new\n")
    followed.restart()
    place = f"{log}\n{status.st_dev}\n{status.st_ino}\n3\n{len(HEAD)}\n{len(HEAD) + 14}"
    key = hashlib.sha256(place.encode() + hashlib.sha256(b"sent, perhaps\n").digest()).hexdigest()
    assert (followed.file.read(MAX_BYTES), followed.file.shown) == ((b"sent, perhaps\n", key), 41)
    followed.file.advance()
    assert followed.read_all() == "new\n"


def test_a_damaged_state_is_forgotten(log: Path, followed: Follower, state: Path) -> None:
    followed.file.save()
    [file] = state.glob("*.json")
    for damaged in ('{"version": 1, "position": {"inode": 1', '{"version": 1, "position": {"x": 1}}', "[]"):
        file.write_text(damaged)
        followed.restart()
        assert (followed.read_all(), followed.file.shown) == (HEAD, None)


@pytest.mark.parametrize("rotate", [rename, copytruncate])
@pytest.mark.parametrize("is_watched", [True, False])
def test_no_line_is_lost_or_read_twice_by_rotation(
    log: Path, followed: Follower, rotate: Callable[[Path], None], is_watched: bool
) -> None:
    assert followed.read_all() == HEAD
    append(log, "before\n")
    rotate(log)
    append(log, "after\n")
    if not is_watched:
        followed.restart()
    assert followed.read_all() == "before\nafter\n"
    append(log, "later\n")
    assert followed.read_all() == "later\n"
    assert followed.notes == []


def test_a_renamed_log_is_read_while_there_is_no_new_one(log: Path, followed: Follower) -> None:
    followed.read_all()
    rename(log)
    append(log.with_name("app.log.1"), "late\nunfinished")
    assert followed.read_all() == "late\n"
    followed.restart()
    assert followed.read_all() == ""
    log.write_text("new\n")
    assert followed.read_all() == "unfinished\nnew\n"


@pytest.mark.parametrize("is_watched", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        "app.log.11 app.log.10 app.log.9",
        "app-20261127.log app-20261128.log app-20261129.log",
        "app.log.2026-11-27_23 app.log.2026-11-28_00 app.log.2026-11-28_01",
    ],
)
def test_what_the_log_was_between_two_rotations_is_read_next(
    log: Path, followed: Follower, names: str, is_watched: bool
) -> None:
    rotated = [log.with_name(name) for name in names.split()]
    followed.read_all()
    append(log, "one\n")
    log.rename(rotated[0])
    append(rotated[0], "late\n")
    rotated[1].write_text("two\n")
    rotated[2].write_text("three\n")
    log.write_text("four\n")
    for name in ("application.log", "app-2.log", "app-2-1128.log", "app-8080.log", "app.log.1.gz"):
        log.with_name(name).write_text("of another log\n")
    log.with_name("app.log.12").write_text("read before, and still written to\n")
    if not is_watched:
        followed.restart()
    assert followed.read_all() == "one\nlate\ntwo\nthree\nfour\n"


def test_what_the_log_was_is_found_though_the_file_before_it_was_compressed(
    log: Path, followed: Follower
) -> None:
    followed.read_all()
    append(log, "one\n")
    os.utime(log, (1, 1))
    log.unlink()
    for seconds, index in enumerate((3, 2, 1), 2):
        rotated = log.with_name(f"app.log.{index}")
        rotated.write_text(f"rotated {index}\n")
        os.utime(rotated, (seconds, seconds))
    log.write_text("new\n")
    assert followed.read_all() == "one\nrotated 3\nrotated 2\nrotated 1\nnew\n"


def test_a_truncated_log_that_has_grown_again_is_recognized_by_its_beginning(
    log: Path, followed: Follower
) -> None:
    followed.read_all()
    log.write_text("another log that is longer than the one that was there before it was truncated\n")
    assert followed.read_all().startswith("another log")
    assert len(followed.notes) == 1 and "may be missing" in followed.notes[0]


def test_a_log_whose_rotated_file_is_gone_is_read_from_its_start_with_a_note(
    log: Path, followed: Follower
) -> None:
    followed.read_all()
    log.unlink()  # compressed, for example
    log.write_text("new\n")
    followed.from_start = False
    followed.restart()
    assert followed.read_all() == "new\n"
    assert f"after byte {len(HEAD)}" in followed.notes[0]


def test_equal_lines_at_the_same_place_of_another_file_have_another_key(
    log: Path, followed: Follower
) -> None:
    assert followed.read_all() == HEAD
    copytruncate(log)
    assert followed.read_all() == ""
    append(log, HEAD)
    assert followed.read_all() == HEAD
    assert len(set(followed.keys)) == 2
