"""A training file and a validation file as one corpus, for a job trains on one and holds its end out.

    openai_joined/<file id>/<corpus id>   the corpus was made of this file and another

The corpus was made for a job, not uploaded, so it goes when either of its files does.
"""

import contextlib
from collections.abc import Iterator

from app.http.access import Reach
from models.errors import DomainError, InvalidInput, NotFound
from store.corpora import Corpus, Upload

_MIN_HELD_OUT, _MAX_HELD_OUT = 0.005, 0.5


@contextlib.contextmanager
def joined(reach: Reach, training: Corpus, validation: Corpus) -> Iterator[tuple[Corpus, float]]:
    """Make a corpus of two texts; give it and the share of it, at its end, that is the second.

    The second text begins on a line of its own. If the block raises a DomainError, the corpus goes again.

    Raises:
        InvalidInput: a text was uploaded as bytes, or the second has the wrong size.
        TooLarge: both together are larger than a corpus may be.
    """
    if "bytes" in (training.encoding, validation.encoding):
        raise InvalidInput(
            "validation_file goes with texts, not with corpora uploaded as bytes", param="validation_file"
        )
    share = validation.characters / (training.characters + validation.characters)
    if not _MIN_HELD_OUT <= share <= _MAX_HELD_OUT:
        raise InvalidInput(
            f"validation_file would be {share:.1%} of both files; it may be from 0.5 % to 50 %",
            param="validation_file",
        )
    corpus, is_new = _join(reach, training, validation)
    if is_new:  # otherwise the same text was uploaded by a client, whose it is to delete
        for source in (training, validation):
            reach.services.blobs.write(_path(source.id, corpus.id), b"")
    try:
        yield corpus, validation.characters / corpus.characters
    except DomainError:
        if is_new:
            with contextlib.suppress(DomainError):  # another job may have begun with it
                reach.delete_corpus(corpus.id)
        raise


def joined_with(reach: Reach, file_id: str) -> list[str]:
    """Return the ids of the corpora that were made of a file and another."""
    return [path.rpartition("/")[2] for path in reach.services.blobs.paths(f"openai_joined/{file_id}")]


def delete_joined(reach: Reach, file_id: str) -> None:
    """Delete the corpora that were made of a file and another. The caller checks that no job needs them."""
    blobs = reach.services.blobs
    for corpus_id in joined_with(reach, file_id):
        with contextlib.suppress(NotFound):  # deleted already, or another key's
            reach.delete_corpus(corpus_id)
        with contextlib.suppress(NotFound):
            reach.services.corpora.id_of(corpus_id)
            continue  # another key has it
        blobs.delete(_path(file_id, corpus_id))


def _join(reach: Reach, training: Corpus, validation: Corpus) -> tuple[Corpus, bool]:
    services = reach.services
    spool, limit_bytes = services.settings.data_dir / "spool", services.settings.max_corpus_bytes
    with Upload(spool, limit_bytes=limit_bytes) as upload:
        last = b""
        for piece in services.corpora.stream(training.id):
            upload.feed(piece)
            last = piece[-1:] or last
        if last != b"\n":
            upload.feed(b"\n")
        for piece in services.corpora.stream(validation.id):
            upload.feed(piece)
        corpus, is_new = services.corpora.add(upload)
    return reach.uploaded(corpus, is_new=is_new)


def _path(file_id: str, corpus_id: str) -> str:
    return f"openai_joined/{file_id}/{corpus_id}"
