"""The service is the list of its rooms: one that is taken out leaves no trace, one is added by a package."""

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from nextchar.app.room import Room
from nextchar.app.rooms import ROOMS, ApiSettings, all_folders, settings_class
from tests.app.fakes import publish
from tests.app.service import Service, serving
from tests.docs.blocks import blocks
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
LOG_METRICS = ("nextchar_ingest", "nextchar_alert", "nextchar_notifications")
OPTIONAL = [room for room in ROOMS if room.name in ("logs", "openai", "acceptance", "console")]


def test_the_settings_are_those_of_the_rooms() -> None:
    assert ApiSettings.model_fields.keys() == settings_class(ROOMS).model_fields.keys()


def paths_of(room: Room) -> set[str]:
    """The paths of a room that the API reference has."""
    routes = [route for router in room.routers for route in iter_route_contexts(router.routes)]
    return {route.path or "" for route in routes if getattr(route, "include_in_schema", True)}


@pytest.fixture(params=OPTIONAL, ids=lambda room: room.name)
def without(request: pytest.FixtureRequest, settings: ApiSettings) -> Iterator[tuple[Room, Service]]:
    """A room, and a service without it."""
    room: Room = request.param
    rooms = tuple(one for one in ROOMS if one is not room)
    fields = settings_class(rooms).model_fields.keys()
    given = {name: getattr(settings, name) for name in settings.model_fields_set if name in fields}
    with serving(settings_class(rooms)(**given), rooms=rooms) as service:  # type: ignore[arg-type]
        yield room, service


def test_a_room_that_is_taken_out_leaves_a_service_without_a_trace_of_it(
    without: tuple[Room, Service], settings: ApiSettings
) -> None:
    room, service = without
    corpus = service.upload()
    assert service.http.get(f"/v1/jobs/{service.submit(corpus=corpus)}").json()["status"] == "queued"
    publish(service.models)
    assert service.http.post("/v1/models/fake/complete", json={"prompt": "a", "max_characters": 3}).is_success
    assert service.http.post("/v1/models/fake/score", json={"text": "a b"}).is_success
    assert service.http.delete("/v1/models/fake").is_success
    with serving(settings) as whole:
        everything = {url: whole.http.get(url) for url in ("/openapi.json", "/readyz", "/metrics")}
        pages = {url: whole.http.get(url).status_code for url in ("/", "/docs", "/clients/js/nextchar.js")}
    left = {url: service.http.get(url) for url in everything}
    assert all(answer.is_success for answer in left.values())
    names = [{loop["name"] for loop in found["/readyz"].json()["background"]} for found in (everything, left)]
    metrics = [
        {line.split()[2] for line in found["/metrics"].text.splitlines() if line.startswith("# TYPE")}
        for found in (everything, left)
    ]
    gone = names[0] - names[1], metrics[0] - metrics[1]
    assert (
        gone
        == {
            "logs": (
                {"notifications", "ingest scoring"},
                {
                    name
                    for name in metrics[0]
                    if name.startswith(("nextchar_ingest", "nextchar_alert", "nextchar_notif"))
                },
            ),
            "openai": ({"batches"}, {name for name in metrics[0] if name.startswith("nextchar_batch")}),
            "acceptance": (
                set(),
                {"nextchar_suggestions_total", "nextchar_suggestion_saved_characters_total"},
            ),
            "console": (set(), set()),
        }[room.name]
    )
    routes = set(everything["/openapi.json"].json()["paths"]) - set(left["/openapi.json"].json()["paths"])
    assert routes == paths_of(room)
    for path in routes:
        answer = service.http.get(path.replace("{model}", "fake"))
        assert answer.status_code in (404, 405), path
    if room.name == "console":
        assert set(pages.values()) == {200}
        assert {service.http.get(url).status_code for url in pages} == {404}
    rest = [one for one in ROOMS if one is not room]
    assert not {folder.name for folder in room.folders} & {folder.name for folder in all_folders(rest)}
    own = set(settings_class([room]).model_fields) - set(settings_class(rest).model_fields)
    assert bool(own) == (room.name in ("logs", "acceptance"))


@pytest.mark.timeout(240)
def test_the_room_of_the_documentation_is_installed_by_an_entry_point(
    tmp_path: Path, clean_redis_url: str
) -> None:
    [module, toml] = [block.text for block in blocks(ROOT / "docs" / "how-to" / "extend.md")]
    assert len(module.splitlines()) <= 60
    (tmp_path / "nextchar_hello.py").write_text(module)
    entry = tmp_path / "nextchar_hello-1.0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: nextchar-hello\nVersion: 1.0\n")
    [target] = re.findall(r'^hello = "(.*)"$', toml, re.MULTILINE)
    (entry / "entry_points.txt").write_text(f"[nextchar.rooms]\nhello = {target}\n")
    program = textwrap.dedent(
        f"""
        import os, sys
        sys.path.insert(0, {str(tmp_path)!r})
        os.environ |= {{"NEXTCHAR_DATA_DIR": {str(tmp_path / "data")!r}, "NEXTCHAR_PORT": "0",
            "NEXTCHAR_REDIS_URL": {clean_redis_url!r}, "NEXTCHAR_GREETING": "Salut"}}
        from nextchar.app.main import application
        from tests.app.service import served
        with served(application()) as url:
            print(url, flush=True)
            sys.stdin.read()
        """
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout and process.stdin
        try:
            with httpx.Client(base_url=process.stdout.readline().strip(), timeout=60) as http:
                assert http.get("/v1/hello").json() == {"greeting": "Salut"}
                assert "/v1/hello" in http.get("/openapi.json").json()["paths"]
                eventually(lambda: "hello_rounds_total 0.0" not in http.get("/metrics").text, within_s=30)
                assert "greeter" in {loop["name"] for loop in http.get("/readyz").json()["background"]}
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()
