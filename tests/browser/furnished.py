"""A service with something in every room: what the console's views are looked at with.

Whatever comes from a user has markup in it, so that no view can be shown without meeting some.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.main import create_app
from app.settings import ApiSettings
from models.config import NetworkConfig, TrainingConfig
from models.saved_model import SavedModel
from store.jobs import Job, JobError, JobRequest, Jobs, JobStatus
from store.live import EventLog
from store.models import Models
from store.open_blobs import open_blobs
from tests.app.service import served
from tests.browser.reciting import following, reciting

MARKUP = '<img src="/x" onerror="window.ran = 1"><script>window.ran = 1</script>'
"""If this ever becomes elements, the page knows."""

LINE = "lazy-fox bug\n"
"""What the model `line` recites, over and over."""

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
    "ngram_order": 5,
    "baselines": {"uniform": 4.2, "unigram": 3.1, "bigram": 1.9, "ngram": 0.9, "xz": 1.4},
    "problems": [f"the model is worse than {MARKUP}"],
    "int8": {"validation_bits_per_character": 0.76, "lost_nats": 0.003, "kept": True},
    "memorization": {
        "verdict": "copies",
        "generated": [
            {
                "temperature": 1.0,
                **_COPIES,
                "passages": [{"length": 40, "offset": 3, "text": f"copied {MARKUP}"}],
            }
        ],
        "held_out": _COPIES | {"passages": []},
    },
}


@dataclass(frozen=True)
class House:
    """A running service, and what is in it."""

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
        """The address of each view, with something to see in it."""
        return {
            "start": "/",
            "texts": "/#/corpora",
            "text": f"/#/corpora/{self.corpus}",
            "train": "/#/train",
            "training": "/#/jobs",
            "job": f"/#/jobs/{self.succeeded.id}",
            "failed job": f"/#/jobs/{self.failed.id}",
            "models": "/#/models",
            "model": "/#/models/line@1",
            "compare": "/#/compare?models=line@1,names@1",
            "playground": "/#/playground?model=line@1",
            "anomalies": "/#/anomalies?model=line@1",
            "nowhere": "/#/nowhere",
            "reference": "/docs",
        }

    def publish(self, saved: SavedModel, **changes: Any) -> str:
        """Publish a model; return its name@version."""
        card = saved.card.model_copy(update=changes)
        return self.models.publish(card, {name: saved.file(name) for name in saved.card.files}).reference

    def queue(self) -> str:
        """Queue a job that nobody takes; return its id."""
        answer = httpx.post(f"{self.url}/v1/jobs", json={"corpus": self.corpus, "name": "waiting"})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


@contextmanager
def furnished(data_dir: Path, redis_url: str, **changes: Any) -> Iterator[House]:
    """Serve a house until the block ends; `changes` are settings."""
    settings = ApiSettings(data_dir=data_dir, redis_url=redis_url, port=0, **changes)
    blobs = open_blobs(settings.blobs_url)
    jobs, events = Jobs(blobs), EventLog(blobs)
    with served(create_app(settings)) as url:
        text = (f"The quick {MARKUP} fox\n" + LINE) * 30
        corpus = str(httpx.post(f"{url}/v1/corpora?name=foxes", content=text.encode()).json()["id"])
        finish = _finisher(jobs, events, corpus)
        house = House(
            url=url,
            settings=settings,
            models=Models(blobs),
            jobs=jobs,
            corpus=corpus,
            succeeded=finish(JobStatus.SUCCEEDED, model="line@1"),
            failed=finish(JobStatus.FAILED, error=JobError(code="diverged", message=f"the loss is {MARKUP}")),
            paused=finish(JobStatus.PAUSED),
        )
        house.publish(reciting("line", LINE), report=REPORT, corpus=corpus, job=house.succeeded.id)
        house.publish(
            following(
                "names", {"a": {"d": 0.6, "n": 0.4}, "d": {"\n": 1.0}, "n": {"\n": 1.0}, "\n": {"a": 1.0}}
            )
        )
        calibrate(url)
        yield house


def calibrate(url: str) -> None:
    """Give the model `line` its default calibration, in place of any other."""
    lines = [LINE.strip()[n % 9 :] for n in range(40)]
    made = httpx.post(f"{url}/v1/models/line@1/calibrate", json={"lines": lines}, timeout=60)
    assert made.status_code == 201, made.text


def _finisher(jobs: Jobs, log: EventLog, corpus: str) -> Callable[..., Job]:
    network = NetworkConfig(units=8, embedding=4)
    request = JobRequest(corpus=corpus, name="line", network=network, training=TrainingConfig())

    def finish(status: JobStatus, **changes: Any) -> Job:
        job = jobs.move(jobs.create(request), JobStatus.RUNNING, attempt=1)
        told = [("metrics", point) for point in _CURVE]
        told += [("sample", {"step": 10 * n, "text": f"sample {n} {MARKUP}"}) for n in range(3)]
        told += [("message", {"text": f"fewer rows {MARKUP}"})]
        log.write(
            job.id,
            [
                {"id": n, "at": 1795563611.0, "type": kind, "data": data}
                for n, (kind, data) in enumerate(told, 1)
            ],
        )
        return jobs.move(
            job, status, progress=_CURVE[-1] | {"steps": 50, "characters_per_second": 900}, **changes
        )

    return finish
