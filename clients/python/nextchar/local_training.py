"""Training in this process, without a server, as the service trains. Needs the extra `nextchar[serve]`.

model = nextchar.train(Path("notes.txt").read_text(), seconds=60)
"""

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from pydantic import ValidationError
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from nextchar.app.core_settings import default_training_memory_bytes
from nextchar.app.jobs.plans import plan
from nextchar.app.jobs.schemas import JobCreate
from nextchar.local import Model
from nextchar.models.base import find_base, is_base
from nextchar.models.errors import InvalidInput
from nextchar.models.kernels.compile_cache import (
    TRAINING,
    compile_in_child_process,
    machine_folder,
    use_cache_folder,
)
from nextchar.models.machine import available_cores
from nextchar.models.saved_model import Card, SavedModel
from nextchar.models.validation_errors import did_you_mean, fields_at, first_problem
from nextchar.options import TrainingOptions
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Corpus, Encoding, Upload
from nextchar.store.jobs import Job, Jobs
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.upload import names_file, path_advice, surrogate_advice

_PIECE_BYTES = 1 << 20
_UNITS = ("seconds", "epochs", "steps")  # of a budget
_FIELD = re.compile(r'"(purpose|masks|kind|coverage)": ')  # in advice of the service


def train(
    text: str | bytes | Path,
    *,
    name: str = "model",
    progress: bool = True,
    threads: int | None = None,
    **options: Unpack[TrainingOptions],
) -> Model:
    """Train a model on a text in this process, with a progress bar and messages; interrupt it to stop.

    Args:
        text: at least some hundred characters, or a file's path; its last tenth is held out, or of a list
            of names, terms or requests a tenth of the lines. With `alphabet="bytes"` it can be any bytes.
        name: the model's name.
        progress: whether to show the bar, and above it what the job reports: masks, warnings, its end.
        threads: cores to train on; None: all.
        options: how long to train, 60 seconds by default: seconds, epochs (passes over the text) or steps
            (of the optimizer); and other fields of a job, as `POST /v1/jobs` takes them: preset,
            architecture, network, training, masks, kind, mixture (False: the network alone), seed,
            validation_fraction and more; in a notebook `nextchar.options.TrainingOptions??` explains each.
            Not `mix`, which names what a service has; `start_from` only with a base model.

    Raises:
        InvalidInput: the text is too short, or an option is wrong or missing.
        OSError: the file cannot be read.
    """
    body = _body(name, {**options})
    if threads is not None and threads < 1:
        raise InvalidInput(f"train: threads: must be at least 1, not {threads}", param="threads")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no notices of TensorFlow's in the notebook
    from nextchar.worker.hooks import Hooks
    from nextchar.worker.pipeline import train_model

    use_cache_folder(None)
    with (
        tempfile.TemporaryDirectory(prefix="nextchar-") as folder,
        _bar(is_shown=progress) as (show, print_message),
    ):
        show({"phase": "preparing"})
        data = Path(folder)
        blobs = open_blobs((data / "store").as_uri())
        corpora, models = Corpora(blobs), Models(blobs)
        corpus = _add(corpora, text, data / "spool", is_bytes=body.alphabet == "bytes")
        body = body.model_copy(update={"corpus": corpus.id})
        start = find_base(body.start_from).card if body.start_from else None
        job: Job = Jobs(blobs).create(
            plan(body, corpus, start=start, memory_limit_bytes=default_training_memory_bytes())
        )
        show({"phase": "compiling kernels (once per machine and version)"})
        compile_in_child_process(*TRAINING)
        show({"phase": "preparing"})
        events: list[dict[str, Any]] = []

        def add_event(kind: str, fields: dict[str, Any]) -> None:
            events.append({"at": time.time(), "type": kind, "data": fields})
            if kind == "message":
                print_message(fields["text"])

        outcome = train_model(
            job,
            corpora=corpora,
            models=models,
            scratch=data / "scratch",
            cores=threads or available_cores(),
            precision="auto",
            measurements=machine_folder(None),
            resume=None,
            hooks=Hooks(
                progress=show,
                event=add_event,
                checkpoint=lambda _: None,
                stop=lambda: None,
                checkpoint_every_s=float("inf"),
            ),
            events=events,
        )
    assert outcome.card is not None, "nothing stops this job"
    card: Card = outcome.card
    return Model(SavedModel(card, outcome.files.__getitem__), threads=threads)


def _body(name: str, options: dict[str, Any]) -> JobCreate:
    """Return the body of a job, without its corpus. Raises InvalidInput for a wrong option."""
    amounts = {unit: options.pop(unit, None) for unit in _UNITS}
    budget = {unit: amount for unit, amount in amounts.items() if amount is not None}
    if len(budget) + ("budget" in options) > 1:
        raise InvalidInput("train: give at most one of seconds, epochs, steps and budget", param="budget")
    for option in ("corpus", "start_from", "mix"):
        if options.get(option) is not None and not (option == "start_from" and is_base(str(options[option]))):
            raise InvalidInput(
                f"train: {option}: a text is trained here without a service, which has other corpora and"
                f" models; use Client.train for {option}",
                param=option,
            )
    for option in options.keys() - JobCreate.model_fields.keys():
        meant = did_you_mean(option, {*fields_at(JobCreate), *_UNITS, "threads"})
        meant = re.sub(r"(\w+)\.(\w+)\?$", r'\1={"\2": …}?', meant)  # as it is written in Python
        raise InvalidInput(f"train: {option}: there is no such option{meant}", param=option)
    fields = ({"budget": budget} if budget else {}) | options | {"corpus": "text", "name": name}
    try:
        return JobCreate.model_validate(fields)
    except ValidationError as error:
        param, sentence = first_problem(error.errors(), JobCreate)
        raise InvalidInput(f"train: {sentence}", param=param) from None


def _add(corpora: Corpora, text: str | bytes | Path, spool: Path, *, is_bytes: bool) -> Corpus:
    """Store the text. Raises InvalidInput: it is no text, empty or not UTF-8."""
    if not isinstance(text, str | bytes | Path):
        raise InvalidInput(f"train: text must be a str, bytes or a Path, not {type(text).__name__}")
    if names_file(text):
        raise InvalidInput(f"train: {path_advice(text)}", param="text")
    encoding: Encoding = "bytes" if is_bytes and not isinstance(text, str) else "utf-8"
    try:
        with Upload(spool, limit_bytes=1 << 40, encoding=encoding) as upload:
            if isinstance(text, Path):
                with text.open("rb") as file:
                    while piece := file.read(_PIECE_BYTES):
                        upload.feed(piece)
            else:
                upload.feed(text.encode() if isinstance(text, str) else text)
            return corpora.add(upload)[0]
    except UnicodeEncodeError as error:
        message = f"train: {surrogate_advice(error)}"
        raise InvalidInput(message, code="corpus_not_utf8", param="text") from None
    except InvalidInput as error:
        sentence = error.message.replace("upload it with encoding=bytes", 'train with alphabet="bytes"')
        raise InvalidInput(f"train: {sentence}", code=error.code, param="text") from None


@contextmanager
def _bar(*, is_shown: bool) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[str], None]]]:
    """Show a progress bar; give two functions, which do nothing if it is not shown.

    One takes a job's progress, or its `phase` before it trains. The other prints a message of the job.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, disable=not is_shown) as bar:
        task = bar.add_task("preparing", total=None, figures="")

        def show(progress: dict[str, Any]) -> None:
            bits = progress.get("validation_bits_per_character")
            held_out = f"network: held out {bits:.2f} bits per character  " if bits else ""
            left = progress.get("seconds_left")
            bar.update(
                task,
                description=progress.get("phase") or "training",
                total=progress.get("steps"),
                completed=progress.get("step", 0),
                figures=held_out + (f"{left:.0f} s left" if left is not None else ""),
            )

        def print_message(sentence: str) -> None:
            if is_shown:
                bar.console.print(Text(_FIELD.sub(r"\1=", sentence), style="yellow"))

        yield show, print_message
