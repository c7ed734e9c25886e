"""Training in this process, without a server, as the service trains. Needs the extra `nextchar[serve]`.

model = nextchar.train(Path("notes.txt").read_text(), seconds=60)
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from app.schemas.jobs import JobCreate
from app.services.job_plans import plan
from app.settings import machine_memory_bytes
from models.errors import InvalidInput
from models.kernels.compile_cache import TRAINING, compile_in_child_process, machine_folder, use_cache_folder
from models.machine import available_cores
from models.saved_model import Card, SavedModel
from nextchar.local import CACHE_FOLDER, Model
from store.corpora import Corpora
from store.corpus_upload import Upload
from store.jobs import Job, Jobs
from store.models import Models
from store.open_blobs import open_blobs


def train(
    text: str,
    *,
    seconds: float | None = None,
    name: str = "model",
    progress: bool = True,
    threads: int | None = None,
    **options: Any,
) -> Model:
    """Train a model on a text in this process, with a progress bar; interrupt it to stop.

    Args:
        text: at least some hundred characters; its last tenth is held out, or of a list
            of names, terms or requests a tenth of the lines.
        seconds: how long to train, 60 by default; `options` may have another `budget`.
        name: the model's name.
        progress: whether to show the bar.
        threads: cores to train on; None: all.
        options: other fields of a job, as `POST /v1/jobs` takes them: preset, architecture, network,
            training, budget ({"steps": 500}), masks, kind, mixture (False: the network alone),
            seed, validation_fraction and more.

    Raises:
        InvalidInput: the text is too short, or an option is wrong or missing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no notices of TensorFlow's in the notebook
    from worker.hooks import Hooks
    from worker.pipeline import train_model

    budget = {"seconds": 60.0 if seconds is None else seconds}
    cache = CACHE_FOLDER.expanduser()
    use_cache_folder(cache)
    with tempfile.TemporaryDirectory(prefix="nextchar-") as folder, _bar(is_shown=progress) as show:
        show({"phase": "compiling kernels (once per machine and version)"})
        compile_in_child_process(*TRAINING)
        show({"phase": "preparing"})
        data = Path(folder)
        blobs = open_blobs((data / "store").as_uri())
        corpora, models = Corpora(blobs), Models(blobs)
        with Upload(data / "spool", limit_bytes=1 << 40) as upload:
            upload.feed(text.encode())
            corpus, _ = corpora.add(upload)
        try:
            body = JobCreate.model_validate({"budget": budget, **options, "corpus": corpus.id, "name": name})
        except ValueError as error:
            raise InvalidInput(f"train: {error}") from None
        job: Job = Jobs(blobs).create(plan(body, corpus, memory_limit_bytes=machine_memory_bytes()))
        events: list[dict[str, Any]] = []
        outcome = train_model(
            job,
            corpora=corpora,
            models=models,
            scratch=data / "scratch",
            cores=threads or available_cores(),
            measurements=machine_folder(cache),
            resume=None,
            hooks=Hooks(
                progress=show,
                event=lambda kind, data: events.append({"at": time.time(), "type": kind, "data": data}),
                checkpoint=lambda _: None,
                stop=lambda: None,
                checkpoint_every_s=float("inf"),
            ),
            events=events,
        )
    assert outcome.card is not None, "nothing stops this job"
    card: Card = outcome.card
    return Model(SavedModel(card, outcome.files.__getitem__), threads=threads)


@contextmanager
def _bar(*, is_shown: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show a progress bar; give a function that takes a job's progress, or its `phase` before it trains."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, disable=not is_shown) as bar:
        task = bar.add_task("preparing", total=None, figures="")

        def show(progress: dict[str, Any]) -> None:
            bits = progress.get("validation_bits_per_character")
            held_out = f"held out {bits:.2f} bits per character  " if bits else ""
            left = progress.get("seconds_left")
            bar.update(
                task,
                description=progress.get("phase", "training"),
                total=progress.get("steps"),
                completed=progress.get("step", 0),
                figures=held_out + (f"{left:.0f} s left" if left is not None else ""),
            )

        yield show
