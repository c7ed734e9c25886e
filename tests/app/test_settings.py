from pathlib import Path

import pytest
from pydantic import ValidationError

from nextchar.app.access.keys import new_key
from nextchar.app.core_settings import machine_memory_bytes, physical_memory_bytes
from nextchar.app.rooms import ApiSettings

ANY = "0.0.0.0"  # noqa: S104  the address of every interface


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert ApiSettings(host=host).host == host


@pytest.mark.parametrize("host", [ANY, "::", "192.168.1.5", "example.org", ""])
def test_public_address_without_keys_is_refused_unless_anonymous_access_is_allowed(host: str) -> None:
    with pytest.raises(ValidationError, match="NEXTCHAR_ALLOW_ANONYMOUS=1"):
        ApiSettings(host=host)
    assert ApiSettings(host=host, allow_anonymous=True).host == host


@pytest.mark.parametrize("published", ["0.0.0.0:8000", "8000", "[::]:8000", "192.168.1.5:80", "127.0.0.1"])
def test_published_address_without_keys_is_refused_unless_anonymous_access_is_allowed(
    published: str, tmp_path: Path
) -> None:
    with pytest.raises(
        ValidationError, match="NEXTCHAR_API_KEYS_FILE to a file of keys, NEXTCHAR_ALLOW_ANONYMOUS=1"
    ) as refused:
        ApiSettings(host=ANY, published_address=published)
    assert refused.value.error_count() == 1
    assert ApiSettings(host=ANY, published_address=published, allow_anonymous=True).host == ANY
    (tmp_path / "keys").write_text(new_key("laptop", scopes="read")[1])
    assert ApiSettings(host=ANY, published_address=published, api_keys_file=tmp_path / "keys").host == ANY


@pytest.mark.parametrize("published", ["127.0.0.1:8000", "[::1]:8000", "127.0.0.1:8000-8010"])
def test_published_to_this_machine_alone_needs_no_permission(published: str) -> None:
    assert ApiSettings(host=ANY, published_address=published).host == ANY


def test_empty_permission_is_none() -> None:
    with pytest.raises(ValidationError, match="NEXTCHAR_ALLOW_ANONYMOUS=1"):
        ApiSettings(host=ANY, allow_anonymous="")  # type: ignore[arg-type]


def test_keys_open_an_address_to_others(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(new_key("laptop", scopes="read")[1])
    assert ApiSettings(host=ANY, api_keys_file=file).host == ANY
    assert ApiSettings(api_keys_file="").api_keys_file is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("contents", "says"),
    [(None, "cannot be read"), ("# none\n", "has no key"), ("laptop sha256=1", "line 1 of")],
)
def test_file_without_good_keys_stops_start_up_with_one_line(
    tmp_path: Path, contents: str | None, says: str
) -> None:
    file = tmp_path / "keys"
    if contents is not None:
        file.write_text(contents)
    with pytest.raises(ValidationError, match=says) as refused:
        ApiSettings(host=ANY, api_keys_file=file)
    assert refused.value.error_count() == 1


def test_wrong_setting_stops_start_up_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEXTCHAR_PORT", "eighty")
    monkeypatch.setenv("NEXTCHAR_HOST", ANY)
    with pytest.raises(SystemExit) as stop:
        ApiSettings.load()
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "NEXTCHAR_PORT='eighty'" in message and f"NEXTCHAR_HOST={ANY!r}" in message


def test_default_training_limit_is_most_of_this_machine() -> None:
    assert ApiSettings().training_memory_bytes == machine_memory_bytes() * 8 // 10


def test_training_limit_is_most_of_the_workers_memory() -> None:
    assert ApiSettings(worker_memory="512m").training_memory_bytes == (512 << 20) * 8 // 10
    assert ApiSettings(worker_memory="9999g").training_memory_bytes == physical_memory_bytes() * 8 // 10
    assert ApiSettings(worker_memory="512m", training_memory_bytes=5).training_memory_bytes == 5
    with pytest.raises(ValidationError, match="write 8g, or 512m"):
        ApiSettings(worker_memory="much")
