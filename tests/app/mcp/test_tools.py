"""The tools, called by the MCP package's own client over both transports, for a service that needs keys."""

import asyncio
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from nextchar.app.access.keys import new_key
from nextchar.app.mcp.room import PATH, ROOM
from nextchar.app.rooms import ENTRY_POINTS, ROOMS, ApiSettings
from tests.app.fakes import publish
from tests.app.service import TEXT, Service, serving

KEYS = {
    "agent": new_key("agent", scopes="read,complete,train"),
    "typist": new_key("typist", scopes="complete", rate="2/minute"),
}
Connect = Callable[[str], AbstractAsyncContextManager[Client]]


@pytest.fixture
def service(settings: ApiSettings) -> Iterator[Service]:
    keys = settings.data_dir / "keys"
    keys.write_text("".join(f"{line}\n" for _, line in KEYS.values()))
    with serving(settings.model_copy(update={"api_keys_file": keys}), rooms=(*ROOMS, ROOM)) as running:
        publish(running.models)
        yield running


@pytest.fixture(params=["http", "stdio"])
def connect(request: pytest.FixtureRequest, service: Service) -> Connect:
    """Return a function that connects to the tools with the secret of a key."""
    url = str(service.http.base_url)

    @asynccontextmanager
    async def over_http(secret: str) -> AsyncIterator[Client]:
        headers, endpoint = {"Authorization": f"Bearer {secret}"}, url.rstrip("/") + PATH
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(endpoint, http_client=http)) as client,
        ):
            yield client

    @asynccontextmanager
    async def over_stdio(secret: str) -> AsyncIterator[Client]:
        command = ["-m", "nextchar", "mcp", "--server", url, "--api-key", secret]
        async with Client(StdioServerParameters(command=sys.executable, args=command)) as client:
            yield client

    return over_http if request.param == "http" else over_stdio


def result_of(found: Any) -> dict[str, Any]:
    assert not found.is_error, found.content
    content: dict[str, Any] = found.structured_content
    return content


def test_an_agent_trains_completes_and_scores_with_the_limits_of_its_key(
    connect: Connect, service: Service
) -> None:
    service.http.headers["Authorization"] = f"Bearer {KEYS['agent'][0]}"

    async def run() -> None:
        async with connect(KEYS["agent"][0]) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert list(tools) == [
                "models",
                "complete",
                "suggest",
                "score",
                "alerts",
                "label_alert",
                "train",
                "wait",
            ]
            assert all(tool.description for tool in tools.values())
            assert "name@version" in tools["complete"].input_schema["properties"]["model"]["description"]

            async def call(tool: str, **arguments: Any) -> dict[str, Any]:
                return result_of(await client.call_tool(tool, arguments))

            assert [model["name"] for model in (await call("models"))["models"]] == ["fake"]
            completed = await call("complete", model="fake", prompt="a", max_characters=3, temperature=0)
            assert completed["model"] == "fake@1" and len(completed["completions"][0]["text"]) == 3
            assert (await call("suggest", model="fake", prefix="a", limit=2))["prefix"] == "a"
            scored = await call("score", model="fake", lines=["ab", "ba"], only_anomalous=False)
            assert [(line["line"], line["text"]) for line in scored["lines"]] == [(1, "ab"), (2, "ba")]
            assert scored["lines_scored"] == 2
            normal = [("ab" * (1 + i % 9) + "→" * (i % 11 == 0)) for i in range(120)]
            assert service.http.post("/v1/models/fake/calibrate", json={"lines": normal}).is_success
            arguments: dict[str, Any] = {"lines": ["ab", "ab →→→b 17"], "record_alerts": True}
            found = await call("score", model="fake", **arguments)
            [line] = found["lines"]
            assert (found["lines_scored"], line["line"], line["anomalous"]) == (2, 2, True)
            span, *_ = line["spans"]
            assert span["text"] == line["text"][span["start"] : span["end"]] != ""
            [alert] = (await call("alerts", model="fake", state="open"))["alerts"]
            assert alert["id"] == line["alert_id"]
            labeled = await call("label_alert", model="fake", alert=alert["id"], label="incident")
            assert labeled["label"] == "incident"

            job = await call("train", name="fox", text=TEXT, seconds=5)
            assert job["status"] == "queued" and service.jobs.get(job["id"]).request.name == "fox"
            assert service.http.get("/v1/corpora/fox").json()["id"] == job["corpus"]
            assert (await call("wait", job=job["id"], timeout_s=0))["status"] == "queued"
            assert service.http.post(f"/v1/jobs/{job['id']}/cancel").is_success
            assert (await call("wait", job=job["id"]))["status"] == "cancelled"

            wrong = await client.call_tool("complete", {"model": "fox", "prompt": "a"})
            assert wrong.is_error and "there is no model 'fox'" in wrong.content[0].text

    asyncio.run(run())


def test_a_key_is_passed_on_and_each_call_of_a_tool_counts_once(connect: Connect) -> None:
    async def run() -> list[str]:
        async with connect(KEYS["typist"][0]) as client:
            calls = [
                ("train", {"name": "fox", "text": TEXT}),
                *[("complete", {"model": "fake", "prompt": "a"})] * 3,
            ]
            return [
                found.content[0].text if found.is_error else "ok"
                for found in [await client.call_tool(tool, arguments) for tool, arguments in calls]
            ]

    refused, first, second, third = asyncio.run(run())
    assert "needs a key with the scope" in refused
    assert (first, second) == ("ok", "ok") and "2 per 1 minute" in third, third


def test_a_key_that_is_unknown_is_refused(connect: Connect) -> None:
    async def run() -> str:
        async with connect("nck_unknown") as client:
            found = await client.call_tool("models", {})
            return str(found.is_error and found.content[0].text)

    assert "this API key is unknown" in asyncio.run(run())


def test_the_room_is_added_by_the_entry_point_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    [(name, value)] = project["entry-points"][ENTRY_POINTS].items()
    assert EntryPoint(name, value, ENTRY_POINTS).load() is ROOM
