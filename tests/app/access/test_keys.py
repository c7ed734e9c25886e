import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nextchar.app.access.keys import KeyFile, main, new_key, read_keys

ROOT = Path(__file__).parents[3]


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line if line.endswith("\n") else f"{line}\n" for line in lines))
    return path


def test_file_holds_hashes_and_never_keys(tmp_path: Path) -> None:
    secret, line = new_key("laptop", scopes="read,complete", models="a*,b", rate="10/second")
    assert secret not in line and len(secret) == len("nck_") + 43  # 256 bits in base64
    [key] = read_keys(
        write(
            tmp_path / "keys",
            f"# my\x0bevil sha256={'a' * 64} scopes=admin",
            "",
            line.strip() + "  # since May",
        )
    )
    assert key.name == "laptop" and key.scopes == {"read", "complete"} and key.models == ("a*", "b")
    assert key.digest == hashlib.sha256(secret.encode()).digest()
    assert key.rate is not None and key.rate.amount == 10


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("name", "64 hexadecimal digits"),
        ("name sha256=abc scopes=read", "64 hexadecimal digits"),
        (f"name sha256={'a' * 64}", "scopes="),
        (f"name sha256={'a' * 64} scopes=root", "scopes="),
        (f"name sha256={'a' * 64} scopes=read rate=often", "rate=often"),
        (f"name sha256={'a' * 64} scopes=read color=red", "no field 'color'"),
        (f"name sha256={'a' * 64} read", "fields like"),
        (f"na/me sha256={'a' * 64} scopes=read", "a key's name"),
        (f"name sha256={'a' * 64} scopes=read models=", "must list patterns"),
        (f"name sha256={'a' * 64} scopes=read models=,", "must list patterns"),
        (f"name sha256={'a' * 64} scopes=read models=a-* models=", "models= occurs twice"),
        (f"name sha256={'a' * 64} scopes=read scopes=admin", "scopes= occurs twice"),
        (f"name sha256={'a' * 64} scopes=read#x models=a-*", "a space before the '#'"),
        (f"name sha256={'a' * 64} scopes=read rate=1/minute;9/second", "rate="),
    ],
)
def test_wrong_line_is_named_by_its_number_without_its_contents(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ValueError, match="line 2 of") as refused:
        read_keys(write(tmp_path / "keys", "# first", line))
    assert says in str(refused.value) and "a" * 64 not in str(refused.value)


def test_a_name_belongs_to_one_key(tmp_path: Path) -> None:
    lines = [new_key("twin", scopes="read")[1] for _ in range(2)]
    with pytest.raises(ValueError, match="two keys named 'twin'"):
        read_keys(write(tmp_path / "keys", *lines))


@pytest.mark.parametrize("option", [{"models": ""}, {"models": "a b"}, {"rate": ""}, {"models": "a #b"}])
def test_no_key_is_made_from_an_empty_variable_or_one_with_spaces(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|'#'"):
        new_key("site", scopes="complete", **option)


def test_patterns_match_names_with_and_without_a_version(tmp_path: Path) -> None:
    [key] = read_keys(write(tmp_path / "keys", new_key("k", scopes="complete", models="sku-*,names@2")[1]))
    allowed = {
        name: key.allows(name) for name in ("sku-a", "sku-a@3", "names@2", "names@1", "names", "other")
    }
    assert [name for name, yes in allowed.items() if yes] == ["sku-a", "sku-a@3", "names@2"]


def test_a_key_can_have_limits(tmp_path: Path) -> None:
    counts = {"max_jobs": 3, "max_batches": 5, "max_streams": 0, "max_requests": 16}
    limits: dict[str, Any] = {"max_corpus_bytes": "1.5GB"} | counts
    _, line = new_key("team", scopes="train", **limits)
    [key] = read_keys(write(tmp_path / "keys", line))
    found = (key.max_corpus_bytes, key.max_jobs, key.max_batches, key.max_streams, key.max_requests)
    assert found == (1_500_000_000, 3, 5, 0, 16)
    [key] = read_keys(write(tmp_path / "keys", new_key("free", scopes="train")[1]))
    assert {key.max_corpus_bytes, key.max_jobs, key.max_batches, key.max_streams, key.max_requests} == {None}
    for name, value, problem in (
        ("max_corpus_bytes", "10 GB", "must be like 500MB"),
        ("max_corpus_bytes", "10GiB", "must be like 500MB"),
        ("max_corpus_bytes", "-1", "must be like 500MB"),
        ("max_jobs", "many", "must be a number"),
        ("max_streams", "1.5", "must be a number"),
    ):
        with pytest.raises(ValueError, match=problem):
            new_key("team", scopes="train", **{name: value})


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the file read at every look."""
    monkeypatch.setattr("nextchar.app.access.keys.RELOAD_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_changed_file_is_read_again_though_its_time_and_size_are_the_same(tmp_path: Path) -> None:
    (old, old_line), (new, new_line) = new_key("old", scopes="read"), new_key("new", scopes="read")
    file = write(tmp_path / "keys", old_line)
    keys, then = KeyFile(file), file.stat()
    assert keys.find(old) and keys.find(new) is None and keys.find("") is None
    write(file, new_line)
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (then.st_size, then.st_mtime_ns)
    found = keys.find(new)
    assert found and found.name == "new" and keys.find(old) is None


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("bad", ["typo", "twin", "torn", "empty"])
def test_last_valid_version_applies_until_the_file_is_valid_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: str
) -> None:
    (stays, stays_line), (gone, gone_line) = new_key("stays", scopes="read"), new_key("gone", scopes="read")
    new, new_line = new_key("new", scopes="complete", models="names")
    file = write(tmp_path / "keys", gone_line, stays_line)
    keys = KeyFile(file)
    assert keys.find(gone) and keys.find(stays) and not keys.problems
    match bad:
        case "typo":
            write(file, stays_line, new_line.replace("scopes=complete", "scopes=compleet"))
        case "twin":
            write(file, stays_line, new_line, stays_line.replace("stays", "again").replace("read", "admin"))
        case "torn":
            file.write_text(stays_line + new_line.partition(" models=")[0])
        case "empty":
            file.write_text("")
    kept = keys.find(stays)
    assert kept and kept.name == "stays" and kept.scopes == {"read"}
    assert keys.find(gone) and keys.find(new) is None and len(keys.problems) == 1
    [logged] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert logged.startswith(keys.problems[0]) and "its last valid version applies" in logged
    assert stays not in logged and (bad == "empty" or keys.problems[0].startswith(("line 2 of", "line 3 of")))
    write(file, stays_line, new_line)
    found = keys.find(new)
    assert found and found.models == ("names",) and keys.find(gone) is None and not keys.problems


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["missing", "a folder"])
def test_no_key_is_valid_while_the_file_cannot_be_read(tmp_path: Path, how: str) -> None:
    secret, line = new_key("laptop", scopes="read")
    file = write(tmp_path / "keys", line)
    keys = KeyFile(file)
    assert keys.find(secret)
    file.unlink()
    if how == "a folder":
        file.mkdir()
    assert keys.find(secret) is None and keys.problems and str(file) in keys.problems[-1]
    file.rmdir() if how == "a folder" else file.unlink(missing_ok=True)
    write(file, line)
    assert keys.find(secret) and not keys.problems


def test_command_prints_the_line_apart_from_the_key(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "nextchar.app.access.keys",
        "new",
        "site",
        "--scopes",
        "complete",
        "--models",
        "a*",
    ]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    secret = done.stderr.strip().rpartition(" ")[2]
    found = KeyFile(write(tmp_path / "keys", done.stdout)).find(secret)
    assert found and found.name == "site" and found.scopes == {"complete"} and found.models == ("a*",)
    refused = subprocess.run(
        [*command[:4], "site", "--scopes", "root"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1 and "scopes=" in refused.stderr and not refused.stdout


def test_command_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["new", "site", "--rate", "5/second", "--max-jobs", "3", "--max-corpus-bytes", "2kB"])
    printed = capsys.readouterr()
    secret = printed.err.strip().rpartition(" ")[2]
    found = KeyFile(write(tmp_path / "keys", printed.out)).find(secret)
    assert found and found.scopes == {"read", "complete"} and found.models == ()
    assert (found.max_jobs, found.max_corpus_bytes, found.max_streams) == (3, 2000, None)
    assert found.rate is not None and found.rate.amount == 5
    with pytest.raises(SystemExit, match="nextchar: scopes="):
        main(["new", "site", "--scopes", "root"])
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2 and "new" in capsys.readouterr().err
