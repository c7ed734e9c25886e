"""Models in this process, without a server: for notebooks and scripts. Needs the extra `nextchar[serve]`.

    model = nextchar.load("notes-model")
    model.complete("In the ")
    model.surprisal("In teh ")     # bits per character, as an array
    model.heatmap("In teh ")       # colored text in a notebook
    model.save("copy")             # a folder, which nextchar.load reads

Completion and scores are those of the service, with its defaults; `local_training` makes models.
"""

import atexit
import inspect
import math
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer
from nextchar.models.anomaly.line_scores import LineScore, ScoreOptions
from nextchar.models.config import NetworkConfig
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.models.kernels.compile_cache import SERVING, compile_in_child_process, use_cache_folder
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.machine import available_cores
from nextchar.models.pack import pack
from nextchar.models.runtime.engine import Ticket
from nextchar.models.runtime.requests import (
    Completion,
    CompletionCollector,
    CompletionRequest,
    Distribution,
    Event,
    Expert,
    FinishReason,
)
from nextchar.models.runtime.suggestions import Suggestion, SuggestionRequest
from nextchar.models.saved_model import SavedModel, parse_card
from nextchar.models.text.vocabulary import normalize
from nextchar.models.validation_errors import did_you_mean
from nextchar.notebook import Heatmap, Picture, figures, table
from nextchar.options import CompletionOptions, SuggestOptions
from nextchar.store.calibrations import Calibrations
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.store.settings import StoreSettings

T = TypeVar("T")
C = TypeVar("C")

MODEL_FILE_NAME = "model.json"
"""The file that makes a folder a model."""

_PICTURE = "report.svg"  # the file of the learning curve

STORE_PREFIX = "store:"
"""Prefix of the name of a model in the storage."""


class Model:
    """A loaded model. Use as a context manager, or `close` it, to stop its threads."""

    def __init__(self, saved: SavedModel, *, threads: int | None = None) -> None:
        """Load a saved model. Raises Unavailable: a file is damaged."""
        self._saved, self._threads = saved, threads
        self.loaded = LoadedModel.load(saved, threads=threads or available_cores())
        self._engine = self.loaded.engine

    def __reduce__(self) -> tuple[Callable[..., "Model"], tuple[Any, ...]]:
        """Pickle the model's files; it is loaded where it is unpickled, as in workers of Ray and Spark."""
        return _unpickled, (ModelFiles.of(self._saved), self._threads)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._saved.card.name

    @property
    def characters(self) -> str:
        """The characters it knows, in the order of their ids, from 1."""
        return self._saved.card.characters

    @property
    def network(self) -> NetworkConfig:
        """The shape of its network."""
        return self._saved.card.network

    @property
    def report(self) -> dict[str, Any]:
        """What its training run measured: held-out bits per character, baselines and more."""
        return self._saved.card.report

    @property
    def history(self) -> Any:
        """The evaluations while it was trained: a pandas DataFrame, or a list where pandas is not installed.

        Bits are those of the network alone.
        """
        curve = self.report["curve"]
        try:
            import pandas as pd  # type: ignore[import-untyped]
        except ModuleNotFoundError:
            return curve
        return pd.DataFrame(curve)

    def summary(self) -> str:
        """Return what the model is and how well it predicts, one line for each."""
        return "\n".join(f"{name:24}{value}" for name, value in figures(self._saved.card))

    def plot(self) -> "Picture":
        """Return the learning curve as a picture, which a notebook shows.

        Raises:
            NotFound: the model was saved without one.
        """
        if _PICTURE not in self._saved.card.files:
            raise NotFound(f"{self.name} was saved without a picture of its learning curve")
        return Picture(self._saved.file(_PICTURE).decode())

    def complete(self, prompt: str, **options: Unpack[CompletionOptions]) -> str | list[str]:
        """Return a completion of `prompt`; with `n` above 1 a list of them.

        Args:
            prompt: the text before it.
            options: as of the service: max_characters, n, stop, temperature, top_k, top_p, min_p, seed, beam,
                until ("word", "line" or "confidence"), expert ("network": the network alone) and more.

        Raises:
            InvalidInput: an option is wrong.
        """
        stop = options.pop("stop", None)
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        request = _request(CompletionRequest, "complete", prompt="", stop=stops, **options)
        (completions,) = self.complete_all([self._characters_of(prompt)], request)
        texts = [text for text, _ in completions]
        return texts if request.n > 1 else texts[0]

    generate = complete
    """The same, for those who look for this name."""

    def complete_all(
        self, prompts: Sequence[str], request: CompletionRequest
    ) -> list[list[tuple[str, FinishReason]]]:
        """Return the text and finish reason of each completion of each prompt; all are completed together.

        Args:
            prompts: at most 256, in the characters of the vocabulary.
            request: how they are completed; its prompt is replaced.

        Raises:
            InvalidInput: an option is out of range.
        """
        vocabulary = self._saved.vocabulary
        stop = tuple(map(vocabulary.to_characters, request.stop))
        requests = [
            replace(request, prompt=self.loaded.masks.mask_lines(prompt), stop=stop, stream=False)
            for prompt in prompts
        ]
        return [
            [(vocabulary.to_text(one.text), one.reason) for one in completions]
            for completions in self._completions(requests)
        ]

    def suggest(self, prefix: str, **options: Unpack[SuggestOptions]) -> list[Suggestion]:
        """Return different completions of a field, best first; of a model of records, lines of its corpus.

        Args:
            prefix: what has been typed into the field.
            options: as of the service: limit, constrain ("lines", "prefer" or "none"), typos, context,
                exclude and exclude_patterns.

        Raises:
            InvalidInput: an option is wrong, or the model has no lines.
        """
        asked = _request(SuggestionRequest, "suggest", prefix=prefix, **options)
        steps = self.loaded.suggester.suggest(asked, self._engine)
        try:
            (completions,) = self._completions([next(steps)])
            steps.send(completions)
        except StopIteration as end:
            return cast(list[Suggestion], end.value)
        raise AssertionError("suggestions need one request")

    def next(self, prompt: str, *, top: int = 10, expert: Expert = "mixture") -> list[tuple[str, float]]:
        r"""Return the `top` likeliest next characters after `prompt` with their probabilities.

        A model of bytes has \xNN for a byte above 127.
        """
        results: queue.SimpleQueue[Distribution | Exception] = queue.SimpleQueue()
        self._engine.predict(self._prompt_of(prompt), results.put, top=top, expert=expert)
        distribution = _result(results)
        label = self._saved.vocabulary.label
        return [(label(character), probability) for character, probability in distribution.candidates]

    def surprisal(self, text: str, *, expert: Expert = "mixture") -> NDArray[np.float32]:
        """Return the surprisal -log2 p of each character of `text` after NFC, in bits, (N,) float32.

        For a model of bytes, of each byte of its UTF-8. The text is read after a newline. What the model
        masks is masked, and the first character of a masked value has all its bits. The expert
        "network" is the network alone, from which scores are made.
        """
        characters = self._characters_of(text)
        masked = self.loaded.masks.mask(characters)
        described = self._engine.text_logprobs(masked.text, top=0, expert=expert)
        bits = np.array([-entry.logprob / math.log(2) for entry in described], np.float32)
        if masked.starts is None:
            return bits
        spread = np.zeros(len(characters), np.float32)
        spread[masked.starts[:-1]] = bits
        return spread

    def evaluate(self, text: str, *, expert: Expert = "mixture") -> float:
        """Return the mean surprisal of `text`, in bits per character: the fewer, the better it is predicted.

        Raises:
            InvalidInput: the text is empty.
        """
        bits = self.surprisal(text, expert=expert)
        if not len(bits):
            raise InvalidInput("evaluate: text is empty", param="text")
        return float(bits.mean())

    def score(
        self,
        lines: Sequence[str],
        *,
        false_alarms: float | None = None,
        repeats: Literal["count", "flag"] = "count",
    ) -> list[LineScore]:
        """Score lines against the calibration made with the model, as the service's `/score` does.

        Lines that are one event, such as a message and its stack trace, have one score.

        Args:
            lines: texts without newlines.
            false_alarms: the fraction of normal lines that may be flagged; None: the calibration's default.
            repeats: whether many lines like flagged ones are flagged too, or only counted as `repeated`.

        Raises:
            InvalidInput: the model has no calibration, for it was trained on too few lines; or `lines` is
                one text.
        """
        if isinstance(lines, str):
            raise InvalidInput("score: lines must be a list of lines, not str; give text.splitlines()")
        calibration = Calibrations(open_blobs("memory://")).find(self._saved, None)
        if calibration is None:
            raise InvalidInput(
                f"{self._saved.card.reference} has no calibration, so no line can be called anomalous; train"
                " it on more lines, or use surprisal",
                code="no_calibration",
            )
        options = ScoreOptions(detail="line", false_alarms=false_alarms, repeats=repeats)
        scorer = CalibratedScorer(self.loaded, calibration, options)
        events = self.loaded.scorer.events(map(self._characters_of, lines))
        read = scorer.read(list(events))
        return [
            scorer.judge(score, line).score for score, line in zip(scorer.scores(read), read, strict=True)
        ]

    def heatmap(self, text: str) -> "Heatmap":
        """Return a picture of `text` for a notebook's cell: the more bits a character cost, the hotter."""
        bits = self.surprisal(text)
        if self._saved.vocabulary.alphabet == "characters":
            return Heatmap(normalize(text), bits)
        sizes = np.array([len(self._characters_of(character)) for character in text], np.intp)  # in bytes
        return Heatmap(text, np.add.reduceat(bits, np.cumsum(sizes) - sizes))

    def save(self, path: str | Path) -> Path:
        """Write the model to a folder that `load`, and `nextchar models import`, read; return the folder.

        Raises:
            FileExistsError: there is a file, or a folder that is not empty.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; choose a new folder")
        for name in self._saved.card.files:
            (folder / name).write_bytes(self._saved.file(name))
        # Last, because it makes the folder a model.
        (folder / MODEL_FILE_NAME).write_bytes(self._saved.card.portable())
        return folder

    def pack(self, path: str | Path, *, limit_bytes: int | None = None, tables: bool = False) -> Path:
        """Write the model as one file that completes, and of a log scores, without Python or a server.

        Return its path.

        Args:
            path: the file to write.
            limit_bytes: the largest file; the beginning of the known text is left out to fit.
            tables: whether to add the tables of the known text: some times as large, it opens at once.

        Raises:
            InvalidInput: the model has no int8 network, or a mask that cannot be packed, or takes more bytes.
        """
        file = Path(path)
        used = Calibrations(open_blobs("memory://")).of_pack(self._saved, None)
        file.write_bytes(pack(self._saved, limit_bytes=limit_bytes, with_tables=tables, calibration=used))
        return file

    def close(self) -> None:
        """Stop the model's threads and free its memory."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        known = dict(figures(self._saved.card))
        bits = f", {known['held out']}" if "held out" in known else ""
        return f"<nextchar.Model {self.name}: {known['network']}{bits}>"

    def _repr_html_(self) -> str:
        return table(self._saved.card) + (self.plot().svg if _PICTURE in self._saved.card.files else "")

    def _completions(self, requests: Sequence[CompletionRequest]) -> list[list[Completion]]:
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        collectors = [CompletionCollector(request.n) for request in requests]
        tickets: list[Ticket] = []
        try:
            for i, request in enumerate(requests):
                tickets.append(self._engine.complete(request, partial(_put, events, i)))
            left = len(requests)
            while left:
                i, event = events.get()
                left -= collectors[i].add(event) is not None
        except BaseException:
            for ticket in tickets:
                ticket.cancel()
            raise
        return [collector.completions() for collector in collectors]

    def _prompt_of(self, text: str) -> str:
        return self.loaded.masks.mask_lines(self._characters_of(text))

    def _characters_of(self, text: str) -> str:
        return self._saved.vocabulary.to_characters(text)


@dataclass(frozen=True)
class ModelFiles:
    """A saved model as plain bytes, to be sent to other processes and hosts."""

    card: bytes
    files: dict[str, bytes]

    @classmethod
    def of(cls, saved: SavedModel) -> Self:
        """Read all files of a model. Raises Unavailable: one is damaged."""
        return cls(saved.card.portable(), {name: saved.file(name) for name in saved.card.files})

    def saved(self) -> SavedModel:
        """Return the saved model."""
        return SavedModel(parse_card(self.card, where=MODEL_FILE_NAME), self.files.__getitem__)


def _result(results: "queue.SimpleQueue[T | Exception]") -> T:
    """Wait for the result of a request to the engine, or raise its error."""
    result = results.get()
    if isinstance(result, Exception):
        raise result
    return result


def _request(kind: Callable[..., T], call: str, **options: Any) -> T:
    """Return a request with the options that are not None. Raises InvalidInput: there is no such option."""
    names = list(inspect.signature(kind).parameters)
    for name in options.keys() - set(names):
        meant = did_you_mean(name, names)
        raise InvalidInput(f"{call}: {name}: there is no such option{meant}", param=name)
    return kind(**{name: value for name, value in options.items() if value is not None})


def _put(events: queue.SimpleQueue[tuple[int, Event]], i: int, event: Event) -> None:
    events.put((i, event))


def _unpickled(files: ModelFiles, threads: int | None) -> Model:
    prepare_kernels()
    return Model(files.saved(), threads=threads)


def score_column(model: Model, column: C, *, field: Literal["score", "p_value", "anomalous"] = "score") -> C:
    """Return a column with the score of each line in a column of lines; null where there is no text.

    Args:
        model: a model with a calibration.
        column: a Series of pandas or Polars, an array of PyArrow (as DuckDB gives a function), or a list.
        field: what to return of each `LineScore`.

    Raises:
        InvalidInput: the model has no calibration, or this is a whole frame.

    >>> frame["score"] = nextchar.score_column(model, frame["line"])  # doctest: +SKIP
    """
    any_column: Any = column
    library = type(column).__module__.partition(".")[0]
    if hasattr(column, "columns"):
        raise InvalidInput('score_column: this is a frame; give one of its columns, such as frame["line"]')
    values = any_column.to_pylist() if library == "pyarrow" else list(any_column)
    scores = iter(model.score([value for value in values if isinstance(value, str)]))
    found = [getattr(next(scores), field) if isinstance(value, str) else None for value in values]
    any_type: Any = type(column)
    result: Any = found
    match library:
        case "pandas":
            result = any_type(found, index=any_column.index, name=field)
        case "polars":
            result = any_type(field, found)
        case "pyarrow":
            import pyarrow as pa

            result = pa.array(found)
    return cast(C, result)


def load(source: str | Path, *, threads: int | None = None) -> Model:
    """Load a model from a folder, or from the storage of a service on this machine.

    Args:
        source: a folder that `Model.save` wrote or that an export was unpacked to; or `store:name` or
            `store:name@version` for a model in the storage that NEXTCHAR_DATA_DIR (by default ./data) or
            NEXTCHAR_STORE_URL names.
        threads: cores for large steps; None: all.

    Raises:
        NotFound: there is no such folder or model.
        Unavailable: the model is damaged, or of a version of nextchar that this one cannot read.
    """
    prepare_kernels()
    return Model(read_model(source), threads=threads)


def prepare_kernels() -> None:
    """Use the kernels of this machine that are compiled already, and compile the others in the background.

    Where the user's cache folder cannot be written, as in a container, the data folder has them if it exists,
    or else a temporary folder, which child processes share.
    """
    data_dir = StoreSettings.load().data_dir
    use_cache_folder(data_dir if data_dir.is_dir() else None)
    is_temporary = not os.environ.get("NUMBA_CACHE_DIR")
    if is_temporary:
        folder = tempfile.mkdtemp(prefix="nextchar-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        use_cache_folder(Path(folder))
    threading.Thread(
        target=compile_in_child_process,
        args=SERVING,
        kwargs={"may_outlive": not is_temporary},  # else short scripts never find them compiled
        name="compile kernels",
        daemon=True,
    ).start()


def read_model(source: str | Path) -> SavedModel:
    """Return a saved model without loading it. The arguments and errors are those of `load`."""
    if isinstance(source, str) and source.startswith(STORE_PREFIX):
        store = open_blobs(StoreSettings.load().blobs_url)
        return Models(store).get(source.removeprefix(STORE_PREFIX))
    folder = Path(source)
    try:
        data = (folder / MODEL_FILE_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"{folder} has no {MODEL_FILE_NAME}, so it is not the folder of a model; to load a model of a"
            f" service on this machine, write {STORE_PREFIX}{folder.name}",
            code="model_not_found",
        ) from None
    card = parse_card(data, where=str(folder / MODEL_FILE_NAME))
    return SavedModel(card, lambda name: (folder / name).read_bytes())
