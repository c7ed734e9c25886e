"""Tools for AI agents by the Model Context Protocol (MCP): each is a call of the service, with its limits.

`nextchar mcp` serves them on standard input and output, the room `nextchar.app.mcp` at `/mcp` of a service.
"""

import contextlib
import unicodedata
from collections.abc import AsyncGenerator, Callable
from itertools import count
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from nextchar.client import AsyncClient
from nextchar.errors import NextcharError, Timeout, TrainingFailed
from nextchar.models import installed_version
from nextchar.training import AsyncTrainingJob
from nextchar.types import AlertLabel, AlertState, LineScore, Purpose, TextKind

_MAX_WAIT_S = 50.0  # clients give up a call after a minute

_INSTRUCTIONS = """\
nextchar trains character-level language models on a user's own text. A model completes text, suggests items
of a list, and scores lines of a log: a line is anomalous if its p-value is at most the false-alarm rate, the
fraction of normal lines that may be flagged. `models` lists the models; `train`, then `wait` makes one.
"""

_JOB_FIELDS = ("id", "status", "name", "corpus", "queue_position", "early", "progress", "model", "error")

_ModelName = Annotated[str, Field(description="name@version, name@alias, or the name: its newest version")]
_Until = Literal["word", "line", "confidence"]


class Tools:
    """The tools, described for agents; `connect` returns the client of the service for one call."""

    def __init__(self, connect: Callable[[], AsyncClient]) -> None:
        self._connect = connect

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncGenerator[AsyncClient, None]:
        async with self._connect() as client:
            try:
                yield client
            except NextcharError as error:
                raise ToolError(str(error)) from error

    async def models(self) -> dict[str, Any]:
        """List the models: name, version, architecture, size, and bits per character of held-out text."""
        async with self._client() as client:
            return {"models": [model async for model in client.models()]}

    async def complete(
        self,
        model: _ModelName,
        prompt: str,
        max_characters: Annotated[int, Field(description="the longest completion")] = 40,
        n: Annotated[int, Field(description="how many completions")] = 1,
        temperature: Annotated[float, Field(description="0 always selects the likeliest character")] = 0.7,
        until: Annotated[
            _Until | None, Field(description="ends with a word or line, or where unsure")
        ] = None,
    ) -> dict[str, Any]:
        """Complete a prompt with text that the model generates; it need not occur in its corpus."""
        options: Any = {"max_characters": max_characters, "n": n, "temperature": temperature}
        async with self._client() as client:
            return {**await client.complete(model, prompt, until=until, **options)}

    async def suggest(
        self,
        model: _ModelName,
        prefix: Annotated[str, Field(description="what is typed so far; typing errors are corrected")],
        limit: Annotated[int, Field(description="the most suggestions")] = 10,
    ) -> dict[str, Any]:
        """Suggest what a prefix becomes, best first; of a model of records, only lines of its corpus."""
        async with self._client() as client:
            return {**await client.suggest(model, prefix, limit=limit)}

    async def score(
        self,
        model: _ModelName,
        lines: Annotated[list[str], Field(description="up to 10,000 lines, each without a newline")],
        false_alarms: Annotated[
            float | None, Field(description="false-alarm rate; default: 0.01, or the smallest allowed")
        ] = None,
        only_anomalous: Annotated[bool, Field(description="leave out normal lines")] = True,
        record_alerts: Annotated[bool, Field(description="record anomalous lines as alerts")] = False,
    ) -> dict[str, Any]:
        """Score lines and explain the anomalous ones.

        A line has its number from 1, p-value, bits per character, and `spans`: anomalous characters from
        `start` to before `end`, their text, and what the model expected instead.
        """
        options: Any = {"detail": "line", "false_alarms": false_alarms, "alerts": record_alerts}
        async with self._client() as client:
            found = await client.score(model, lines, **options)
        scored = list(map(_scored_line, count(1), lines, found.get("lines") or ()))
        flagged = [line for line in scored if line.get("anomalous")]
        counts = {"lines_scored": len(scored), "lines_anomalous": len(flagged)}
        return {"model": found["model"], **counts, "lines": flagged if only_anomalous else scored}

    async def alerts(
        self,
        model: _ModelName,
        state: AlertState | None = None,
        limit: Annotated[int, Field(ge=1, le=1000, description="the most alerts")] = 20,
    ) -> dict[str, Any]:
        """List a model's alerts, most recently seen first.

        An alert is the flagged lines with the same template and the same anomalous word.
        """
        async with self._client() as client:
            found = []
            async for alert in client.alerts(model, state=state):
                found.append(alert)
                if len(found) == limit:
                    break
            return {"alerts": found}

    async def label_alert(self, model: _ModelName, alert: str, label: AlertLabel | None) -> dict[str, Any]:
        """Label an alert by its id; null withdraws a label.

        `normal` lowers the scores of lines like its own from now on: ask the user first.
        """
        async with self._client() as client:
            return {**await client.label_alert(model, alert, label)}

    async def train(
        self,
        name: Annotated[str, Field(description="the model's name; each job adds a version to it")],
        corpus: Annotated[str | None, Field(description="id or name of an uploaded corpus; or text")] = None,
        text: Annotated[
            str | None, Field(description="to train on, at most a megabyte; becomes a corpus")
        ] = None,
        seconds: Annotated[float, Field(description="how long to train")] = 60.0,
        kind: Annotated[TextKind | None, Field(description="what the text is; default: detected")] = None,
        purpose: Annotated[Purpose | None, Field(description="default: anomalies for a log")] = None,
    ) -> dict[str, Any]:
        """Queue a job that trains a model; `wait` with its id waits for the model."""
        options: Any = {"seconds": seconds, "kind": kind, "purpose": purpose}
        async with self._client() as client:
            if text is not None and corpus is None:
                corpus, text = (await client.add_corpus(text, name=name))["id"], None
            return _state_of(await client.train(corpus, name=name, text=text, **options))

    async def wait(
        self,
        job: str,
        timeout_s: Annotated[float, Field(ge=0, le=_MAX_WAIT_S, description="seconds")] = _MAX_WAIT_S,
    ) -> dict[str, Any]:
        """Wait for a job's end; return its status, model, progress or error. Call again while it runs."""
        async with self._client() as client:
            found = AsyncTrainingJob(client, await client.job(job))
            with contextlib.suppress(Timeout, TrainingFailed):  # the job's status says so
                await found.wait(timeout_s=timeout_s)
        return _state_of(found)


def agent_server(connect: Callable[[], AsyncClient]) -> MCPServer:
    """Return a server with the tools."""
    version = installed_version()
    server = MCPServer("nextchar", instructions=_INSTRUCTIONS, version=version, log_level="WARNING")
    for name, tool in vars(Tools).items():
        if not name.startswith("_"):
            server.add_tool(tool.__get__(Tools(connect)))
    return server


def _scored_line(number: int, text: str, score: LineScore) -> dict[str, Any]:
    """Return a line with the fields of its score that are set, and the text of its anomalous spans."""
    text = unicodedata.normalize("NFC", text)  # in which they are counted
    spans = [{**span, "text": text[span["start"] : span["end"]]} for span in score.get("spans") or ()]
    known = {name: value for name, value in score.items() if value is not None}
    return {"line": number, "text": text, **known, "spans": spans}


def _state_of(job: AsyncTrainingJob) -> dict[str, Any]:
    return {name: value for name in _JOB_FIELDS if (value := job.record.get(name)) is not None}
