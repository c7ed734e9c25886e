"""Reads the texts of a job: its corpus as ids, the text to mix in, and what its masked values look like.

Advice on a text before training.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nextchar.models.auto_preset import describe
from nextchar.models.config import MINIMUM_CHARACTERS
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.models.runtime.model_networks import FLOAT32_FILE, load_network
from nextchar.models.runtime.session import Check, no_check
from nextchar.models.text import mask_values, successors
from nextchar.models.text.events import EventStarts, Opener, TextEvents, events_of
from nextchar.models.text.line_columns import LineColumns
from nextchar.models.text.lines import MAX_LINE_CHARACTERS, lines_of
from nextchar.models.text.mask_values import MaskValues
from nextchar.models.text.masks import Masks
from nextchar.models.text.successors import Successors
from nextchar.store.blobs import domain_errors
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Corpus
from nextchar.store.jobs import JobRequest
from nextchar.store.models import Models
from nextchar.store.shuffled_lines import ShuffledLines
from nextchar.worker.chunked_ids import CorpusChunks, narrowest_type
from nextchar.worker.hooks import ScratchFull
from nextchar.worker.mixing import SecondText
from nextchar.worker.prepared_text import Text, covering_characters, read_ids, read_text, trained_characters

_MIN_MASKING_S, _MASKING_S_PER_BYTE = 60.0, 1e-5  # ordinary masks take a thirtieth of it, or less
_UTF8_BYTE_VALUES = 243  # bytes that occur in UTF-8

_SHUFFLED = (
    "the lines are records: they are shuffled with the job's seed, and lines drawn at random are held out; if"
    ' their order matters, train with "kind": "text"'
)


def notes_on_text(
    request: JobRequest, pieces: Callable[[], Iterable[str]], chunks: CorpusChunks | None
) -> Iterator[str]:
    """Yield sentences about how the text is read."""
    about_values = request.masked_by_default if request.masks else timestamps(pieces())
    if about_values:
        yield about_values
    if request.kind == "records":
        yield _SHUFFLED
    if chunks:
        yield (
            f"the corpus as ids is larger than {chunks.cache_bytes:,} bytes (NEXTCHAR_CORPUS_CACHE_BYTES), so"
            " it is read from the storage in chunks"
        )
    if request.chosen_preset:
        yield describe(request.chosen_preset, request.network, request.training)


def read_job_text(
    request: JobRequest,
    pieces: Iterable[str],
    *,
    characters: int | None,
    distinct: int,
    size_bytes: int,
    required: str,
    scratch: Path,
    chunks: CorpusChunks | None,
) -> Text:
    """Return the text of a job as ids; of records, its lines in an order that depends on the seed alone.

    `characters` is the length of the text, if it is known; it has at most `distinct` distinct characters.

    Raises:
        InvalidInput: the text is too short, or records have too few lines.
    """
    fraction = request.training.validation_fraction
    options: dict[str, Any] = {
        "distinct": distinct,
        "alphabet": request.alphabet,
        "coverage": request.coverage,
        "required": required,
        "scratch": scratch,
    }
    if request.kind != "records":

        def trained(length: int) -> int:
            check_length(length)
            return trained_characters(length, fraction)

        return read_text(pieces, characters=characters, trained=trained, chunks=chunks, **options)
    with ShuffledLines(
        pieces,
        size_bytes=size_bytes,
        validation_fraction=fraction,
        seed=request.training.seed,
        scratch=scratch,
    ) as lines:
        return read_text(lines.pieces(), trained=lambda _: lines.trained, **options)


def unmasked_characters(request: JobRequest, corpus: Corpus) -> int:
    """Return the length of the text of a job before masks are applied."""
    return corpus.bytes if request.alphabet == "bytes" else corpus.characters


def check_length(characters: int) -> None:
    """Raise InvalidInput (code `corpus_too_small`) if a text is too short to train on."""
    if characters < MINIMUM_CHARACTERS:
        raise InvalidInput(
            f"the corpus has {characters} characters; training needs {MINIMUM_CHARACTERS}",
            code="corpus_too_small",
        )


def max_distinct(request: JobRequest, corpus: Corpus) -> int:
    """Return how many distinct characters the text of a job has at most, placeholders of masks included."""
    if request.alphabet == "bytes" and corpus.encoding == "utf-8":
        return _UTF8_BYTE_VALUES
    return corpus.distinct_characters + len(request.masks)


def check_scratch(
    request: JobRequest, corpora: Corpora, corpus: Corpus, *, scratch: Path, cache_bytes: int | None
) -> None:
    """Raise ScratchFull if the texts of a job do not fit in the scratch folder."""
    limit = sys.maxsize if cache_bytes is None else cache_bytes
    needed = _max_ids_bytes(request, corpus)
    if request.kind == "records":
        # A byte above 127 is shuffled as a character of two bytes.
        needed += corpus.bytes * (2 if request.alphabet == "bytes" else 1)
    else:
        needed = min(needed, limit)
    if request.mix and request.mix.corpus != request.corpus:
        needed += min(_max_ids_bytes(request, corpora.get(request.mix.corpus)), limit)
    with domain_errors():
        scratch.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(scratch).free
    if free < needed:
        raise ScratchFull(scratch, needed_bytes=needed, free_bytes=free)


def chunks_beyond_cache(
    request: JobRequest, corpora: Corpora, corpus: Corpus, *, cache_bytes: int | None, check: Check = no_check
) -> CorpusChunks | None:
    """Return the chunks of a corpus whose ids do not fit into the cache; None if they do."""
    if cache_bytes is None or _max_ids_bytes(request, corpus) <= cache_bytes:
        return None
    return CorpusChunks(corpora, corpus.id, request.alphabet, cache_bytes, tuple(request.masks), check=check)


def _max_ids_bytes(request: JobRequest, corpus: Corpus) -> int:
    """Return how many bytes the ids of a corpus take; with masks at most, as these shorten the text."""
    bytes_per_id = narrowest_type(max_distinct(request, corpus) + 1).itemsize
    return unmasked_characters(request, corpus) * bytes_per_id


def max_masking_s(request: JobRequest, corpora: Corpora, corpus: Corpus) -> float | None:
    """Return how long masking the texts of a job may take: its budget, or what is enough for any texts."""
    if not request.masks:
        return None
    size_bytes = corpus.bytes
    if request.mix and request.mix.corpus != request.corpus:
        size_bytes += corpora.get(request.mix.corpus).bytes
    return max(request.training.budget.seconds or 0, _MIN_MASKING_S + size_bytes * _MASKING_S_PER_BYTE)


def masked_pieces(
    request: JobRequest, corpora: Corpora, corpus: str, *, check: Check = no_check
) -> Iterator[str]:
    """Yield the characters of a corpus in pieces, masked if the job has masks. `check` is called often."""
    pieces: Iterable[str] = corpora.pieces(corpus, request.alphabet)
    if request.kind == "records" and corpus == request.corpus:
        pieces = columns_of(request).texts(pieces)
    if request.masks:
        pieces = Masks(request.masks, check=check).apply_to_pieces(pieces)
    for piece in pieces:
        check()
        yield piece


def columns_of(request: JobRequest) -> LineColumns:
    """Return what is in the lines of the corpus of a job of records."""
    return LineColumns(request.suggestions.columns if request.suggestions else None)


def second_characters(request: JobRequest, corpora: Corpora, *, check: Check = no_check) -> str:
    """Return the characters of the text to mix in that the vocabulary must have; see `second_text`."""
    if request.mix is None or request.mix.corpus == request.corpus:
        return ""
    pieces = masked_pieces(request, corpora, request.mix.corpus, check=check)
    return covering_characters(pieces, coverage=request.coverage)


def second_text(
    request: JobRequest,
    corpora: Corpora,
    models: Models,
    text: Text,
    *,
    scratch: Path,
    chunks_of: Callable[[Corpus], CorpusChunks | None],
    cores: int,
    on_event: Callable[[str, dict[str, Any]], None],
    check: Check = no_check,
) -> SecondText | None:
    """Return the text to mix in; of the job's own corpus the training part.

    Raises:
        NotFound: its corpus was deleted, or the teacher (code `teacher_deleted`).
    """
    mix = request.mix
    if mix is None:
        return None
    if mix.corpus == request.corpus:
        ids = text.train
    else:
        corpus = corpora.get(mix.corpus)
        chunks, distinct = chunks_of(corpus), max_distinct(request, corpus)
        pieces = masked_pieces(request, corpora, corpus.id, check=check)
        ids = read_ids(pieces, text.vocabulary, distinct=distinct, scratch=scratch, chunks=chunks)
    if mix.teacher is None:
        return SecondText(ids, mix.fraction, mix.targets)
    try:
        saved = models.get(mix.teacher)
    except NotFound:
        raise NotFound(
            f"model {mix.teacher}, the teacher of this job, was deleted or renamed after the job was queued;"
            " train with another teacher",
            code="teacher_deleted",
        ) from None
    teacher = saved.vocabulary
    if unknown := "".join(teacher.unknown(text.vocabulary.characters)):
        message = f"the teacher {mix.teacher} does not know {unknown!r} and never predicts these characters"
        on_event("message", {"text": message})
    network = load_network(saved, FLOAT32_FILE, threads=cores)
    return SecondText(ids, mix.fraction, mix.targets, network, teacher)


def mask_values_files(
    request: JobRequest, corpora: Corpora, corpus: Corpus, *, check: Check = no_check
) -> dict[str, bytes]:
    """Return the file of what the masked values of the corpus look like, if there are masks."""
    if not request.masks:
        return {}
    lines = _last_lines(corpora.pieces(corpus.id, request.alphabet), corpus.characters)
    return {mask_values.FILE: MaskValues.fit(Masks(request.masks, check=check), lines).dump()}


def successors_files(
    request: JobRequest,
    corpora: Corpora,
    corpus: Corpus,
    events: TextEvents | None = None,
    *,
    check: Check = no_check,
) -> dict[str, bytes]:
    """Return the file of what follows what in the lines of the corpus, if it is also for anomalies.

    With `events` these are the lines.
    """
    if request.purpose == "complete":
        return {}
    pieces = corpora.pieces(corpus.id, request.alphabet)
    kept = _end_of(pieces, unmasked_characters(request, corpus), successors.MAX_CHARACTERS)
    lines = list(events_of(events.opener if events else None, lines_of(kept, max_length=MAX_LINE_CHARACTERS)))
    masks = Masks(request.masks, check=check)
    is_records = request.kind == "records"
    known = Successors.fit(map(masks.apply, lines), lines, are_independent=is_records)
    return {successors.FILE: known.dump()}


def text_events(
    request: JobRequest, corpora: Corpora, corpus: Corpus, *, check: Check = no_check
) -> TextEvents | None:
    """Return where the events of a log begin in the lines at its end; None if each line is one.

    They are found before masks are applied, as in lines to be scored.
    """
    if request.kind != "log":
        return None
    pieces = corpora.pieces(corpus.id, request.alphabet)
    text = "".join(_end_of(pieces, unmasked_characters(request, corpus), _EVENTS_CHARACTERS))
    lines = text.split("\n")[1:-1]
    check()
    opener = Opener.learn(lines)
    if opener is None:
        return None
    starts = EventStarts(opener)
    return TextEvents(opener, [starts.add(line[:MAX_LINE_CHARACTERS]) for line in lines])


def _last_lines(pieces: Iterable[str], characters: int) -> Iterator[str]:
    """Yield the lines in the last `mask_values.MAX_CHARACTERS` of a text of `characters`."""
    kept = _end_of(pieces, characters, mask_values.MAX_CHARACTERS)
    return lines_of(kept, max_length=mask_values.MAX_CHARACTERS)


def _end_of(pieces: Iterable[str], characters: int, kept: int) -> Iterator[str]:
    """Yield the last `kept` of the characters of a text, in pieces."""
    skipped = max(0, characters - kept)
    for piece in pieces:
        yield piece[skipped:]
        skipped -= min(skipped, len(piece))


_EVENTS_CHARACTERS = 10_000_000  # at the end of a log
_SAMPLE_CHARACTERS = 100_000
_MIN_LINES = 50
_MIN_FRACTION = 0.8  # of lines with a timestamp


def timestamps(pieces: Iterable[str]) -> str | None:
    """Return advice if most lines of a text, given in pieces, have a timestamp; else None."""
    sample = ""
    for piece in pieces:
        sample += piece[:_SAMPLE_CHARACTERS]
        if len(sample) >= _SAMPLE_CHARACTERS:
            break
    lines = [line for line in sample.split("\n")[:-1] if line]
    if len(lines) < _MIN_LINES:
        return None
    mask = Masks(["timestamp"])
    if sum(mask.apply(line).starts is not None for line in lines) < _MIN_FRACTION * len(lines):
        return None
    return (
        "most lines have a timestamp, and the timestamps of later lines will be flagged as anomalous;"
        ' to find anomalies train with the default masks of a log, or with "masks": ["timestamp"]'
    )
