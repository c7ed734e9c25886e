import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from nextchar.launcher.settings import LauncherSettings
from nextchar.store.settings import StoreSettings

_ROOT = Path(__file__).parents[2]
_SOURCES = ["app", "clients", "deploy", "launcher", "models", "store", "worker"]
_DOCUMENTED = set(
    re.findall(r"^\| `(NEXTCHAR_\w+)`", (_ROOT / "docs/reference/settings.md").read_text(), re.MULTILINE)
)


def all_settings() -> list[type[StoreSettings]]:
    for module in ("nextchar.app.rooms", "nextchar.launcher.settings", "nextchar.worker.settings"):
        if importlib.util.find_spec(module):
            importlib.import_module(module)
    found, waiting = [], [StoreSettings]
    while waiting:
        found.append(waiting.pop())
        waiting += [kind for kind in found[-1].__subclasses__() if not kind.__module__.startswith("tests")]
    return found


def test_every_setting_is_documented():
    fields = {f"NEXTCHAR_{name.upper()}" for kind in all_settings() for name in kind.model_fields}
    assert fields - _DOCUMENTED == set()


def test_documented_defaults_are_those_of_the_code():
    page = (_ROOT / "docs/reference/settings.md").read_text()
    documented = dict(re.findall(r"^\| `(NEXTCHAR_\w+)` \| `([^`]+)`", page, re.MULTILINE))
    compared = set()
    for kind in all_settings():
        for name, field in kind.model_fields.items():
            variable = f"NEXTCHAR_{name.upper()}"
            if isinstance(field.default, int | float) and variable in documented:
                assert float(documented[variable]) == field.default, variable
                compared.add(variable)
    assert {"NEXTCHAR_PORT", "NEXTCHAR_ALLOW_ANONYMOUS", "NEXTCHAR_MODEL_FILE_CACHE_BYTES"} <= compared


def test_every_variable_that_the_code_names_is_documented():
    files = [
        f for folder in _SOURCES for f in (_ROOT / folder).rglob("*") if f.suffix in {".py", ".js", ".yml"}
    ]
    files += [_ROOT / "docker-compose.yml", _ROOT / "Dockerfile"]
    named = {name for file in files for name in re.findall(r"NEXTCHAR_[A-Z][A-Z_]*[A-Z]", file.read_text())}
    assert named - _DOCUMENTED == set()


def test_documented_settings_are_passed_on_by_docker_compose():
    compose = (_ROOT / "docker-compose.yml").read_text()
    passed = set(re.findall(r"^ +([A-Z]\w+): \$\{\1:-", compose, re.MULTILINE))
    page = (_ROOT / "docs/reference/settings.md").read_text()
    section = page.partition("These settings are passed on")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", section)) == passed
    events = LauncherSettings.model_fields["webhook_events"].default
    assert f"${{NEXTCHAR_WEBHOOK_EVENTS:-{events}}}" in compose


def test_embedded_redis_is_used_unless_one_is_given(monkeypatch):
    monkeypatch.delenv("NEXTCHAR_REDIS_URL", raising=False)
    assert LauncherSettings.load().given_redis_url is None
    monkeypatch.setenv("NEXTCHAR_REDIS_URL", "redis://127.0.0.1:6379/0")
    assert LauncherSettings.load().given_redis_url == "redis://127.0.0.1:6379/0"


def test_embedded_redis_has_room_beside_the_streams_of_lines():
    with pytest.raises(ValidationError, match="NEXTCHAR_VALKEY_MAX_BYTES=100000000"):
        LauncherSettings(valkey_max_bytes=100_000_000)
    assert LauncherSettings(valkey_max_bytes=100_000_000, max_stream_bytes=50_000_000)
    assert LauncherSettings(valkey_max_bytes=100_000_000, redis_url="redis://127.0.0.1:1")


def test_messages_about_invalid_settings_have_no_secret(monkeypatch, capsys):
    secret = "whsec_" + "c2VjcmV0" * 6
    monkeypatch.setenv("NEXTCHAR_WEBHOOK_SECRET", secret)
    monkeypatch.setenv("NEXTCHAR_MAX_STREAM_BYTES", "200000000")
    with pytest.raises(SystemExit):
        LauncherSettings.load()
    message = capsys.readouterr().err
    assert message.startswith("nextchar: settings: NEXTCHAR_MAX_STREAM_BYTES=200000000 is more than half of")
    assert secret not in message and "whsec_" not in message
    monkeypatch.setenv("NEXTCHAR_WEBHOOK_SECRET", f"{secret}?")
    with pytest.raises(SystemExit):
        LauncherSettings.load()
    message = capsys.readouterr().err
    assert message.startswith("nextchar: NEXTCHAR_WEBHOOK_SECRET: not `whsec_`") and secret not in message
    for url in (
        "hooks.example/token",
        "https://user@hooks.example/token",
        "https://hooks.example:port/token",
    ):
        monkeypatch.setenv("NEXTCHAR_WEBHOOK_URL", url)
        with pytest.raises(SystemExit):
            LauncherSettings.load()
        assert "token" not in capsys.readouterr().err
