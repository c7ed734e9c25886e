"""The calls of the API that are one request, a list, a download or a streamed completion.

All raise the exceptions of `errors`.
"""

import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any, Literal, Unpack, cast
from urllib.parse import quote

from nextchar.connection import Connection
from nextchar.errors import NextcharError, ServerUnreachable
from nextchar.options import CompletionOptions, Expert, ScoreOptions
from nextchar.types import (
    Alert,
    AlertLabel,
    Alias,
    AliasWithHistory,
    AuditEntry,
    Calibration,
    Completion,
    Corpus,
    DamagedModel,
    Delivery,
    Distribution,
    Evaluation,
    Job,
    Model,
    ModelSummary,
    NotificationTarget,
    Score,
    StreamEvent,
    Suppression,
    TargetTest,
    TextKind,
)
from nextchar.upload import ArchiveFormat, Text, folder_archive, upload_body

EVENT_STREAM = {"Accept": "text/event-stream"}
_LONG_TIMEOUT_S = 1800.0  # minutes of work before the response


class Calls(Connection):
    """Calls about corpora, jobs, models, completions, scores, alerts, calibrations and the service."""

    # Corpora

    async def add_corpus(
        self,
        text: Text,
        *,
        name: str | None = None,
        encoding: str | None = None,
        kind: TextKind | None = None,
        archive: ArchiveFormat | None = None,
        deduplicate: Literal["lines"] | None = None,
    ) -> Corpus:
        """Upload a text and return its corpus. The same bytes are the same corpus.

        Args:
            text: a `str` or `bytes` is the text itself; a `Path` is read; a file or an iterable of pieces is
                streamed, so that it is never in memory whole. Of a folder's `Path`, all files become one
                text, except hidden ones: in order of their paths, those named `*.gz` decompressed.
            name: what to call it; usable wherever the id is. Another text under a name is its next version,
                `name@2`; the bare name means the newest.
            encoding: `bytes` takes anything, and each byte is a character.
            kind: what the text is; by default the service detects it. The lines of `records` are independent,
                as in a list of names, and training shuffles them.
            archive: `text` is an archive, `tar` (also compressed with gzip) or `zip`, whose files become one
                text as those of a folder do, in the order of the archive.
            deduplicate: `lines` leaves out each line that occurred before.

        >>> client.add_corpus(Path("nietzsche.txt"), name="nietzsche")["characters"]  # doctest: +SKIP
        600893
        """
        if isinstance(text, Path) and text.is_dir():
            text, archive = folder_archive(text), "tar"
        is_text = encoding is None and archive is None
        media_type = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
        return await self._fetch(
            Corpus,
            "POST",
            "/v1/corpora",
            params=given(name=name, encoding=encoding, kind=kind, archive=archive, deduplicate=deduplicate),
            content=upload_body(text),
            headers={"Content-Type": media_type},
        )

    async def import_corpus(
        self,
        url: str,
        *,
        name: str | None = None,
        encoding: str | None = None,
        kind: TextKind | None = None,
        deduplicate: Literal["lines"] | None = None,
    ) -> Corpus:
        """Let the service read files in an object store as one corpus; return it when that is done.

        Args:
            url: a file; with a final slash a folder; or a pattern, such as s3://logs/2026-*/*.gz. The service
                reads only what its setting NEXTCHAR_CORPUS_SOURCES allows.
            name: as in `add_corpus`, like the following.
            encoding: `bytes` takes anything.
            kind: what the text is.
            deduplicate: `lines` leaves out each line that occurred before.
        """
        body = given(url=url, name=name, encoding=encoding, kind=kind, deduplicate=deduplicate)
        return await self._fetch(Corpus, "POST", "/v1/corpora/import", json=body, timeout_s=_LONG_TIMEOUT_S)

    def corpora(self) -> AsyncGenerator[Corpus, None]:
        """Yield all corpora, newest first."""
        return self._pages("/v1/corpora")

    async def corpus(self, corpus: str) -> Corpus:
        """Return a corpus's statistics, by id or name."""
        return await self._get(Corpus, path_of("corpora", corpus))

    async def corpus_text(self, corpus: str) -> str:
        """Return the text of a corpus; one uploaded as bytes comes with one character for each byte.

        `download_corpus` yields the bytes of a large one.
        """
        known = await self.corpus(corpus)
        body = await self._fetch_bytes("GET", path_of("corpora", known["id"], "text"), can_retry=True)
        return body.decode("latin-1" if known.get("encoding") == "bytes" else "utf-8")

    def download_corpus(self, corpus: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a corpus as they were uploaded, in pieces."""
        return self._download(path_of("corpora", corpus, "text"))

    async def set_corpus_kind(self, corpus: str, kind: TextKind) -> Corpus:
        """Set what a corpus is, the default of a job's `kind`; return the corpus."""
        body = {"kind": kind}
        return await self._fetch(Corpus, "PATCH", path_of("corpora", corpus), json=body, can_retry=True)

    async def delete_corpus(self, corpus: str) -> dict[str, Any]:
        """Delete a corpus that no unfinished job needs. Models trained on it stay."""
        return await self._fetch(dict[str, Any], "DELETE", path_of("corpora", corpus), can_retry=True)

    # Jobs

    async def create_job(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a training job; `request` is the body of POST /v1/jobs. `train` is more convenient.

        A request with the same `idempotency_key` makes no second job; by default each call has its own key.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return await self._fetch(Job, "POST", "/v1/jobs", json=dict(request), headers=headers, can_retry=True)

    def jobs(self) -> AsyncGenerator[Job, None]:
        """Yield all jobs, newest first."""
        return self._pages("/v1/jobs")

    async def job(self, job: str) -> Job:
        """Return a job: its status, place in the queue and progress."""
        return await self._get(Job, path_of("jobs", job))

    async def cancel_job(self, job: str, *, keep_best: bool = False) -> Job:
        """Cancel a job. `keep_best` publishes the best model so far."""
        body = {"keep_best": True} if keep_best else None
        return await self._fetch(Job, "POST", path_of("jobs", job, "cancel"), json=body)

    async def pause_job(self, job: str) -> Job:
        """Stop a job at a checkpoint; `resume_job` continues it."""
        return await self._fetch(Job, "POST", path_of("jobs", job, "pause"))

    async def resume_job(self, job: str) -> Job:
        """Queue a paused or failed job again; it continues from its last checkpoint."""
        return await self._fetch(Job, "POST", path_of("jobs", job, "resume"))

    # Models

    def models(self) -> AsyncGenerator[ModelSummary, None]:
        """Yield all versions of all models, newest first."""
        return self._pages("/v1/models")

    async def damaged_models(self) -> list[DamagedModel]:
        """Return the versions that are missing from the list because their cards cannot be read."""
        page = await self._get(dict[str, Any], "/v1/models", limit=1)
        return cast(list[DamagedModel], page.get("damaged", []))

    async def model(self, model: str) -> Model:
        """Return the card of `name@version`, `name@alias`, or of the newest version of `name`."""
        return await self._get(Model, path_of("models", model))

    async def rename_model(self, model: str, name: str, *, force: bool = False) -> Model:
        """Rename one version: it becomes the next version of `name`. Return its card.

        `force` renames a version that an alias points to; calls of the alias then fail.
        """
        params, body = given(force=force or None), {"name": name}
        return await self._fetch(Model, "PATCH", path_of("models", model), params=params, json=body)

    async def delete_model(self, model: str, *, force: bool = False) -> dict[str, Any]:
        """Delete one version of a model: the newest for a bare name.

        `force` deletes a version that an alias points to; calls of the alias then fail.
        """
        # For a bare name a second copy of the request would delete the version before.
        is_exact = model.partition("@")[2].isdecimal()
        params = given(force=force or None)
        path = path_of("models", model)
        return await self._fetch(dict[str, Any], "DELETE", path, params=params, can_retry=is_exact)

    def aliases(self, model: str) -> AsyncGenerator[Alias, None]:
        """Yield the aliases of a model's name, such as `champion`; calls take them as `name@champion`."""
        return self._pages(path_of("models", model, "aliases"))

    async def alias(self, model: str, alias: str) -> AliasWithHistory:
        """Return an alias of a model's name, with its history."""
        return await self._get(AliasWithHistory, path_of("models", model, "aliases", alias))

    async def set_alias(
        self,
        model: str,
        alias: str,
        version: int,
        *,
        max_bits_per_character: float | None = None,
        max_regression_bits: float | None = None,
        max_prompt_regression_bits: float | None = None,
        calibration: bool | None = None,
    ) -> Alias:
        """Move an alias of a model's name to a version, or make it.

        Args:
            model: the model's name.
            alias: its alias.
            version: that the alias points to from then on.
            max_bits_per_character: the most that the version's held-out text may cost.
            max_regression_bits: by how many it may be worse than the version where the alias is.
            max_prompt_regression_bits: likewise on the recorded prompts of the model: a shadow run.
            calibration: whether the version must have a calibration.

        Raises:
            Conflict: the version does not meet this (code `alias_check_failed`), or another request moved the
                alias meanwhile (`alias_moved`).
        """
        require = given(
            max_bits_per_character=max_bits_per_character,
            max_regression_bits=max_regression_bits,
            max_prompt_regression_bits=max_prompt_regression_bits,
            calibration=calibration,
        )
        body = {"version": version, "require": require}
        path = path_of("models", model, "aliases", alias)
        return await self._fetch(Alias, "PUT", path, json=body, can_retry=True)

    async def roll_back_alias(self, model: str, alias: str) -> Alias:
        """Move an alias back to what it pointed to before; a second call goes one move further back."""
        return await self._fetch(Alias, "POST", path_of("models", model, "aliases", alias, "rollback"))

    async def delete_alias(self, model: str, alias: str) -> Alias:
        """Delete an alias; `roll_back_alias` restores it."""
        return await self._fetch(Alias, "DELETE", path_of("models", model, "aliases", alias))

    def download(self, model: str, file: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of one file of a model, in pieces."""
        return self._download(path_of("models", model, "files", file))

    def export_model(self, model: str) -> AsyncGenerator[bytes, None]:
        """Yield a tar archive of a model, in pieces; `import_model` takes it.

        >>> with open("nietzsche.tar", "wb") as file:  # doctest: +SKIP
        ...     file.writelines(client.export_model("nietzsche"))
        """
        return self._download(path_of("models", model, "export"))

    async def import_model(self, archive: bytes | Path | IO[bytes], *, name: str | None = None) -> Model:
        """Import a model from the tar archive that `export_model` yields, as the next version of its name.

        `name` replaces the name in the archive. Importing twice makes two versions.

        >>> client.import_model(Path("nietzsche@3.tar"), name="philosopher")["id"]  # doctest: +SKIP
        'philosopher@1'
        """
        return await self._fetch(
            Model,
            "POST",
            "/v1/models/import",
            params=given(name=name),
            content=upload_body(archive),
            headers={"Content-Type": "application/x-tar"},
            timeout_s=_LONG_TIMEOUT_S,
        )

    async def report(self, model: str) -> dict[str, Any]:
        """Return the report of a model's training run."""
        return await self._get(dict[str, Any], path_of("models", model, "report"), format="json")

    def report_file(self, model: str, kind: Literal["html", "svg"]) -> AsyncGenerator[bytes, None]:
        """Yield the report of a model as a page, or its curves as a picture, in pieces."""
        return self._download(path_of("models", model, "report"), format=kind)

    # Completions

    async def complete(self, model: str, prompt: str, **options: Unpack[CompletionOptions]) -> Completion:
        """Complete a prompt.

        >>> found = client.complete("nietzsche", "morality equals ", until="line", seed=1)  # doctest: +SKIP
        >>> found["completions"][0]["text"]  # doctest: +SKIP
        'the same thing as the spirit,'
        """
        body = {"prompt": prompt, **options}
        return await self._fetch(Completion, "POST", path_of("models", model, "complete"), json=body)

    async def stream(
        self, model: str, prompt: str, **options: Unpack[CompletionOptions]
    ) -> AsyncGenerator[StreamEvent, None]:
        """Complete a prompt and yield the text as it comes: `piece` events, `finished`, then `done`.

        >>> for event in client.stream("nietzsche", "morality equals "):  # doctest: +SKIP
        ...     if event["event"] == "piece":
        ...         print(event["data"]["text"], end="", flush=True)
        """
        path, body = path_of("models", model, "complete"), {"prompt": prompt, **options, "stream": True}
        opened = await self._open("POST", path, json=body, headers=EVENT_STREAM)
        async with aclosing(opened) as response:
            async for kind, data in self._events(response):
                yield {"event": cast(Literal["piece", "finished", "done"], kind), "data": data}
                if kind == "done":
                    return
        raise ServerUnreachable(f"{self.server} closed the connection during a completion; retry")

    async def next(
        self,
        model: str,
        prompt: str,
        *,
        top: int = 10,
        temperature: float = 1.0,
        expert: Expert | None = None,
    ) -> Distribution:
        """Return the distribution of the character that follows a prompt: the `top` most likely ones.

        >>> client.next("nietzsche", "phil", top=1)["candidates"]  # doctest: +SKIP
        [{'character': 'o', 'probability': 0.93}]
        """
        body = {"prompt": prompt, "top": top, "temperature": temperature} | given(expert=expert)
        return await self._fetch(Distribution, "POST", path_of("models", model, "next"), json=body)

    # Scores

    async def score(self, model: str, text: str | Sequence[str], **options: Unpack[ScoreOptions]) -> Score:
        """Return the surprisal, in bits, of a text or of up to 10,000 lines, and which lines are anomalous.

        `score_lines` takes lines without end. Positions and bits are those of the characters after NFC.

        Args:
            model: `name` or `name@version`.
            text: a `str`, scored as a whole, or a list of lines, each scored by itself.
            options: the fields of `ScoreOptions`.

        >>> scores = client.score("web", ["GET /", "GET /'--"], false_alarms=0.01)  # doctest: +SKIP
        >>> [line["anomalous"] for line in scores["lines"]]  # doctest: +SKIP
        [False, True]
        """
        if hasattr(text, "__next__"):  # an iterator may have no end
            raise NextcharError(
                "score takes a str or a list of lines; use score_lines for any other iterable"
            )
        body = {"detail": "character"} | given(**options)
        body |= {"text": text} if isinstance(text, str) else {"lines": list(text)}
        return await self._fetch(Score, "POST", path_of("models", model, "score"), json=body)

    async def forget_stream(self, model: str, stream_id: str) -> None:
        """Delete what a model remembers of a stream of lines."""
        await self._fetch(dict, "DELETE", path_of("models", model, "streams", stream_id), can_retry=True)

    # Alerts

    def alerts(
        self,
        model: str,
        *,
        state: Literal["open", "acknowledged", "suppressed"] | None = None,
        severity: Literal["info", "warning", "critical"] | None = None,
        label: Literal["normal", "incident", "none"] | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> AsyncGenerator[Alert, None]:
        """Yield the alerts of a model, most recently seen first.

        Args:
            model: its versions share alerts.
            state: those in this state.
            severity: those that are at least as severe.
            label: those with this label; `none`: without one.
            since: those with a line at or after this time, in Unix seconds.
            until: those with a line at or before this time.

        >>> for alert in client.alerts("sshd", state="open"):  # doctest: +SKIP
        ...     print(alert["count"], alert["template"])
        """
        filters = given(state=state, severity=severity, label=label, since=since, until=until)
        return self._pages(path_of("models", model, "alerts"), **filters)

    async def alert(self, model: str, alert: str) -> Alert:
        """Return an alert by its id."""
        return await self._get(Alert, path_of("models", model, "alerts", alert))

    async def acknowledge_alert(self, model: str, alert: str) -> Alert:
        """Mark an alert as being handled."""
        return await self._fetch(Alert, "POST", path_of("models", model, "alerts", alert, "acknowledge"))

    async def label_alert(self, model: str, alert: str, label: AlertLabel | None) -> Alert:
        """Say what an alert is. `normal` lowers the scores of its lines; None withdraws a label."""
        path = path_of("models", model, "alerts", alert, "label")
        return await self._fetch(Alert, "POST", path, json={"label": label})

    async def suppress_alert(self, model: str, alert: str, *, until: float) -> Suppression:
        """Count an alert but do not report it until a time, in Unix seconds."""
        path = path_of("models", model, "alerts", alert, "suppress")
        return await self._fetch(Suppression, "POST", path, json={"until": until})

    def suppressions(self, model: str) -> AsyncGenerator[Suppression, None]:
        """Yield the suppressions of a model, newest first, with those that have ended."""
        return self._pages(path_of("models", model, "suppressions"))

    async def suppress(
        self, model: str, *, template: str, until: float, span: str | None = None
    ) -> Suppression:
        """Count alerts but do not report them until a time, in Unix seconds: those that match patterns.

        Args:
            model: the model.
            template: matches templates; `*` stands for any text, except in `<*>`.
            until: when it ends.
            span: likewise for the anomalous word; by default any.
        """
        body = {"template": template, "until": until} | given(span=span)
        return await self._fetch(Suppression, "POST", path_of("models", model, "suppressions"), json=body)

    async def delete_suppression(self, model: str, suppression: str) -> None:
        """End a suppression."""
        path = path_of("models", model, "suppressions", suppression)
        await self._fetch(dict, "DELETE", path, can_retry=True)

    async def export_alerts(self, model: str, kind: Literal["json", "csv"] = "json") -> bytes:
        """Return all alerts of a model with labels and suppressions, as JSON, or as a table of alerts."""
        path = path_of("models", model, "alerts", "export")
        return await self._fetch_bytes("GET", path, params={"format": kind}, can_retry=True)

    # The audit trail

    def audit(
        self,
        *,
        key: str | None = None,
        action: str | None = None,
        about: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> AsyncGenerator[AuditEntry, None]:
        """Yield the calls that changed or downloaded something, newest first. Needs a key with scope `admin`.

        Args:
            key: those with the API key of this name.
            action: those of this operation, as `delete_model`.
            about: those about something whose path contains this, as the name of a model.
            since: those at or after this time, in Unix seconds.
            until: those at or before this time.

        >>> for entry in client.audit(about="names@2"):  # doctest: +SKIP
        ...     print(entry["key"], entry["action"], entry["about"])
        """
        filters = given(key=key, action=action, about=about, since=since, until=until)
        return self._pages("/v1/audit", **filters)

    # Notification targets

    def notification_targets(self) -> AsyncGenerator[NotificationTarget, None]:
        """Yield the targets that alerts and other events are reported to, those of the settings last."""
        return self._pages("/v1/notification_targets")

    async def add_notification_target(
        self,
        kind: Literal["webhook", "alertmanager"],
        url: str,
        *,
        models: Sequence[str] | None = None,
        min_severity: Literal["info", "warning", "critical"] | None = None,
        events: Sequence[str] | None = None,
    ) -> NotificationTarget:
        """Report alerts and other events from now on; the response has a webhook's `secret`, once.

        Args:
            kind: what is there.
            url: its address.
            models: patterns of names of models; by default all.
            min_severity: of alerts.
            events: types of events, such as `job.failed`; by default alerts.
        """
        more = given(
            models=list(models) if models is not None else None,
            min_severity=min_severity,
            events=list(events) if events is not None else None,
        )
        body = {"kind": kind, "url": url} | more
        return await self._fetch(NotificationTarget, "POST", "/v1/notification_targets", json=body)

    async def delete_notification_target(self, target: str) -> None:
        """Delete a target, and the messages that wait for it."""
        await self._fetch(dict, "DELETE", path_of("notification_targets", target))

    async def test_notification_target(self, target: str) -> TargetTest:
        """Send a signed test message to a target; return how it responded."""
        return await self._fetch(TargetTest, "POST", path_of("notification_targets", target, "test"))

    def deliveries(
        self, target: str, *, status: Literal["waiting", "dead"] | None = None
    ) -> AsyncGenerator[Delivery, None]:
        """Yield the messages to a webhook that were given up, newest first, or those that wait."""
        return self._pages(path_of("notification_targets", target, "deliveries"), **given(status=status))

    async def replay_delivery(self, target: str, delivery: str) -> Delivery:
        """Send a message again that was given up or waits."""
        path = path_of("notification_targets", target, "deliveries", delivery, "replay")
        return await self._fetch(Delivery, "POST", path)

    # Calibrations

    async def calibrate(
        self,
        model: str,
        lines: Iterable[str] | None = None,
        *,
        corpus: str | None = None,
        ingested: bool | None = None,
        name: str | None = None,
        buckets: int | None = None,
        false_alarms: float | None = None,
    ) -> Calibration:
        """Compare a model's scores with those of normal lines from now on.

        Args:
            model: `name` or `name@version`.
            lines: normal lines; or
            corpus: a corpus, all of whose lines are normal; or
            ingested: True for the newest lines that log agents have sent to the model, at most 1,000.
            name: what to call the calibration; without one it is the model's default.
            buckets: compare lines with those of like length only, in so many buckets.
            false_alarms: raise InvalidRequest unless there are enough lines for this rate.

        >>> client.calibrate("web", normal_lines, false_alarms=0.001)["lines"]  # doctest: +SKIP
        5000
        """
        body = given(
            lines=None if lines is None else list(lines),
            corpus=corpus,
            ingested=ingested,
            name=name,
            buckets=buckets,
            false_alarms=false_alarms,
        )
        path = path_of("models", model, "calibrate")
        return await self._fetch(Calibration, "POST", path, json=body, timeout_s=_LONG_TIMEOUT_S)

    async def calibrations(self, model: str) -> list[Calibration]:
        """Return a model's calibrations by name."""
        found = await self._get(dict[str, Any], path_of("models", model, "calibrations"))
        return cast(list[Calibration], found["data"])

    async def delete_calibration(self, model: str, name: str) -> None:
        """Delete a calibration; the one made with the model cannot be deleted."""
        await self._fetch(dict, "DELETE", path_of("models", model, "calibrations", name), can_retry=True)

    async def evaluate(
        self, /, model: str, lines: Sequence[str], anomalous: Sequence[bool], **options: Any
    ) -> Evaluation:
        """Return how well a model separates anomalous lines from normal ones, compared with simple baselines.

        `anomalous` is the truth about each line; `options` are the other fields of the request, such as
        `split="chronological"`.

        >>> client.evaluate("web", lines, labels, worst=5)["model_score"]["auroc"]  # doctest: +SKIP
        0.987
        """
        body = {"lines": list(lines), "anomalous": list(map(bool, anomalous)), **options}
        path = path_of("models", model, "evaluate")
        return await self._fetch(Evaluation, "POST", path, json=body, timeout_s=_LONG_TIMEOUT_S)

    # Health

    async def ready(self) -> dict[str, Any]:
        """Return the service's response to whether it is ready. Raises Unavailable if it is not."""
        return await self._fetch(dict[str, Any], "GET", "/readyz")


def path_of(collection: str, name: str, *more: str) -> str:
    """Return the path of a resource. Raises NextcharError for a name that cannot be a segment of one."""
    for part in (name, *more):
        if not part.strip("."):  # an empty one names another route, a dot or two would be resolved away
            raise NextcharError(f"{part!r} is not a name or an id")
    quoted = (quote(part, safe="@", errors="surrogateescape") for part in (name, *more))
    return "/".join(["/v1", collection, *quoted])


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that were given; the service has the defaults of the others."""
    return {name: value for name, value in fields.items() if value is not None}
