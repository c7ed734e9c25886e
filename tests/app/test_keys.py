import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.keys import KeyFile, new_key, read_keys

ROOT = Path(__file__).parents[2]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_file_holds_hashes_and_never_keys(tmp_path: Path) -> None:
    secret, line = new_key("laptop", scopes="read,complete", models="a*,b", rate="10/second")
    assert secret not in line and len(secret) > 40
    [key] = read_keys(write(tmp_path / "keys", "# mine", "", line + "  # since May"))
    assert key.name == "laptop" and key.scopes == {"read", "complete"} and key.models == ("a*", "b")
    assert key.digest == hashlib.sha256(secret.encode()).digest()
    assert key.rate is not None and key.rate.amount == 10


def test_two_keys_are_never_alike() -> None:
    assert new_key("a", scopes="read")[0] != new_key("a", scopes="read")[0]


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


def test_patterns_match_names_with_and_without_a_version(tmp_path: Path) -> None:
    [key] = read_keys(write(tmp_path / "keys", new_key("k", scopes="complete", models="sku-*,names@2")[1]))
    allowed = {
        name: key.allows(name) for name in ("sku-a", "sku-a@3", "names@2", "names@1", "names", "other")
    }
    assert [name for name, yes in allowed.items() if yes] == ["sku-a", "sku-a@3", "names@2"]


def test_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.keys.RELOAD_S", 0.0)
    (old, old_line), (new, new_line) = new_key("old", scopes="read"), new_key("new", scopes="read")
    keys = KeyFile(write(tmp_path / "keys", old_line))
    assert keys.find(old) and keys.find(new) is None and keys.find("") is None
    write(tmp_path / "keys", new_line, "# so that the size differs")
    found = keys.find(new)
    assert found and found.name == "new" and keys.find(old) is None
    write(tmp_path / "keys", "broken")
    assert keys.find(new) and "stay as they were" in caplog.text
    (tmp_path / "keys").unlink()
    assert keys.find(new)


def test_command_prints_the_line_apart_from_the_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.keys", "new", "site", "--scopes", "complete", "--models", "a*"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    secret = done.stderr.strip().rpartition(" ")[2]
    found = KeyFile(write(tmp_path / "keys", done.stdout)).find(secret)
    assert found and found.name == "site" and found.scopes == {"complete"} and found.models == ("a*",)
    refused = subprocess.run(
        [*command[:4], "site", "--scopes", "root"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1 and "scopes=" in refused.stderr and not refused.stdout
