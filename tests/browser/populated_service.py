"""A running service with data for every view of the console.

Everything that users can write contains markup, so that every view is tested against injection.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.saved_model import SavedModel
from nextchar.store.jobs import Job, JobError, JobRequest, Jobs, JobStatus
from nextchar.store.live import EventLog
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.service import served
from tests.browser.reciting import following, reciting

MARKUP = '<img src="/x" onerror="window.ran = 1"><script>window.ran = 1</script>'
"""Sets `window.ran` if a page ever makes elements of it."""

LINE = "lazy-fox bug\n"
"""The text that the model `line` repeats."""

_CURVE = [
    {
        "step": 10 * n,
        "epoch": n / 4,
        "elapsed_seconds": 3.0 * n,
        "train_bits_per_character": None if n == 0 else 4 / (n + 1),
        "validation_bits_per_character": 4.5 / (n + 1),
    }
    for n in range(6)
]
_COPIES = {"characters": 900, "novel": {"4": 0.1, "8": 0.6}, "copied": 0.2, "longest": 40}
REPORT: dict[str, Any] = {
    "validation_bits_per_character": 0.75,
    "train_bits_per_character": 0.66,
    "training_seconds": 15.0,
    "curve": _CURVE,
    "experts": {"mixture": 0.75, "lstm": 0.85, "ngram": 0.95, "without_matches": 0.8},
    "mixture_weights": "default",
    "ngram_order": 5,
    "baselines": {"uniform": 4.2, "unigram": 3.1, "bigram": 1.9, "ngram": 0.9, "xz": 1.4},
    "problems": [f"the model is worse than {MARKUP}"],
    "int8": {"validation_bits_per_character": 0.76, "lost_nats": 0.003, "kept": True},
    "memorization": {
        "verdict": "copies",
        "withheld": {"lines": 1200, "probed": 63, "completed": 0.25, "suggested": 0.0},
        "generated": [
            {
                "temperature": 1.0,
                **_COPIES,
                "novel": {"4": 0.1},  # no text was as long as 8 characters
                "passages": [{"length": 40, "offset": 3, "text": f"copied {MARKUP}"}],
            }
        ],
        "held_out": _COPIES | {"passages": []},
    },
}


@dataclass(frozen=True)
class PopulatedService:
    """A running service, its stores, and the corpus and jobs in it."""

    url: str
    settings: ApiSettings
    models: Models
    jobs: Jobs
    corpus: str
    succeeded: Job
    failed: Job
    paused: Job

    @property
    def views(self) -> dict[str, str]:
        """The address of each view, with data to show."""
        return {
            "home": "/",
            "corpora": "/#/corpora",
            "corpus": f"/#/corpora/{self.corpus}",
            "train": "/#/train",
            "jobs": "/#/jobs",
            "job": f"/#/jobs/{self.succeeded.id}",
            "failed job": f"/#/jobs/{self.failed.id}",
            "models": "/#/models",
            "model": "/#/models/line@1",
            "compare": "/#/compare?models=line@1,names@1",
            "playground": "/#/playground?model=line@1",
            "suggestions": "/#/suggestions?model=names@1",
            "anomalies": "/#/anomalies?model=line@1",
            "alerts": "/#/alerts?model=line@1",
            "live lines": "/#/live?model=line@1",
            "keys": "/#/keys",
            "not found": "/#/nowhere",
            "reference": "/docs",
        }

    def publish(self, saved: SavedModel, **changes: Any) -> str:
        """Publish a model; return its name@version."""
        card = saved.card.model_copy(update=changes)
        return self.models.publish(card, {name: saved.file(name) for name in saved.card.files}).reference

    def queue(self) -> str:
        """Queue a job that no worker takes; return its id."""
        answer = httpx.post(f"{self.url}/v1/jobs", json={"corpus": self.corpus, "name": "waiting"})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


@contextmanager
def populated_service(data_dir: Path, redis_url: str, **changes: Any) -> Iterator[PopulatedService]:
    """Run a service with data until the block ends; `changes` are settings."""
    settings = ApiSettings(data_dir=data_dir, redis_url=redis_url, port=0, **changes)
    blobs = open_blobs(settings.blobs_url)
    jobs, events = Jobs(blobs), EventLog(blobs)
    with served(create_app(settings)) as url:
        text = (f"The quick {MARKUP} fox\n" + LINE) * 30
        corpus = str(httpx.post(f"{url}/v1/corpora?name=foxes", content=text.encode()).json()["id"])
        make_job = _job_maker(jobs, events, corpus)
        service = PopulatedService(
            url=url,
            settings=settings,
            models=Models(blobs),
            jobs=jobs,
            corpus=corpus,
            succeeded=make_job(JobStatus.SUCCEEDED, model="line@1"),
            failed=make_job(
                JobStatus.FAILED, error=JobError(code="diverged", message=f"the loss is {MARKUP}")
            ),
            paused=make_job(JobStatus.PAUSED),
        )
        service.publish(reciting("line", LINE), report=REPORT, corpus=corpus, job=service.succeeded.id)
        service.publish(
            following(
                "names", {"a": {"d": 0.6, "n": 0.4}, "d": {"\n": 1.0}, "n": {"\n": 1.0}, "\n": {"a": 1.0}}
            )
        )
        calibrate(url)
        flagged = {"lines": [f"lazxyyy-fox {MARKUP}"], "alerts": True, "source": MARKUP}
        httpx.post(f"{url}/v1/models/line@1/score", json=flagged).raise_for_status()
        shown = [
            {"id": str(n), "type": "shown", "suggestion_id": str(n), "model": "line@1", "client": MARKUP[:64]}
            for n in range(9)
        ]
        httpx.post(f"{url}/v1/events", json={"events": shown}).raise_for_status()
        ingested = httpx.post(f"{url}/v1/models/line@1/ingest", json=[{"message": f"lazxyyy-fox {MARKUP}"}])
        assert ingested.status_code == 202, ingested.text
        yield service


def calibrate(url: str) -> None:
    """Give the model `line` its default calibration, in place of any other."""
    lines = [LINE.strip()[n % 9 :] for n in range(40)]
    made = httpx.post(f"{url}/v1/models/line@1/calibrate", json={"lines": lines}, timeout=60)
    assert made.status_code == 201, made.text


def _job_maker(jobs: Jobs, log: EventLog, corpus: str) -> Callable[..., Job]:
    network = NetworkConfig(units=8, embedding=4)
    request = JobRequest(corpus=corpus, name="line", network=network, training=TrainingConfig())

    def make_job(status: JobStatus, **changes: Any) -> Job:
        job = jobs.move(jobs.create(request), JobStatus.RUNNING, attempt=1)
        entries = [("metrics", point) for point in _CURVE]
        entries += [("sample", {"step": 10 * n, "text": f"sample {n} {MARKUP}"}) for n in range(3)]
        entries += [("message", {"text": f"fewer rows {MARKUP}"})]
        log.write(
            job.id,
            [
                {"id": n, "at": 1795563611.0, "type": kind, "data": data}
                for n, (kind, data) in enumerate(entries, 1)
            ],
        )
        return jobs.move(
            job, status, progress=_CURVE[-1] | {"steps": 50, "characters_per_second": 900}, **changes
        )

    return make_job
