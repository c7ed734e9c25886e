"""A training file and a validation file as one corpus, because a job trains on one and holds out its end.

    openai_joined/<file id>/<corpus id>   this corpus was made of the file and another one

The corpus was not uploaded, so it is deleted with either of its files.
"""

import contextlib
from collections.abc import Iterator

from nextchar.app.access.permissions import Access
from nextchar.app.http.services import Services
from nextchar.models.errors import DomainError, InvalidInput, NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.corpus import Corpus
from nextchar.store.corpus_upload import Upload

_MIN_HELD_OUT, _MAX_HELD_OUT = 0.005, 0.5


@contextlib.contextmanager
def joined_corpus(
    services: Services, access: Access, training: Corpus, validation: Corpus
) -> Iterator[tuple[Corpus, float]]:
    """Make a corpus of two texts; yield it and the fraction, at its end, that is the second.

    The second text begins on its own line. If the block raises a DomainError, the corpus is deleted.

    Raises:
        InvalidInput: a text was uploaded as bytes, or the second is too small or too large.
        TooLarge: both together exceed the limit for a corpus.
    """
    if "bytes" in (training.encoding, validation.encoding):
        raise InvalidInput(
            "validation_file needs files uploaded as text, not as bytes", param="validation_file"
        )
    fraction = validation.characters / (training.characters + validation.characters)
    if not _MIN_HELD_OUT <= fraction <= _MAX_HELD_OUT:
        raise InvalidInput(
            f"validation_file would be {fraction:.1%} of both files; it may be from 0.5 % to 50 %",
            param="validation_file",
        )
    corpus, is_new = _join(services, access, training, validation)
    if is_new:  # otherwise a client has uploaded the same text, and only it may delete that
        for source in (training, validation):
            services.blobs.write(_marker_path(source.id, corpus.id), b"")
    try:
        yield corpus, validation.characters / corpus.characters
    except DomainError:
        if is_new:
            with contextlib.suppress(DomainError):  # another job may use it already
                access.delete_corpus(corpus.id)
        raise


def joined_corpora(blobs: Blobs, file_id: str) -> list[str]:
    """Return the ids of the corpora that were made of a file and another."""
    return [path.rpartition("/")[2] for path in blobs.paths(f"openai_joined/{file_id}")]


def delete_joined(blobs: Blobs, access: Access, file_id: str) -> None:
    """Delete the corpora that were made of a file and another. The caller checks that no job uses them."""
    for corpus_id in joined_corpora(blobs, file_id):
        with contextlib.suppress(NotFound):  # deleted already, or not accessible
            access.delete_corpus(corpus_id)
        with contextlib.suppress(NotFound):
            access.corpora.id_of(corpus_id)
            continue  # another key has it
        blobs.delete(_marker_path(file_id, corpus_id))


def _join(services: Services, access: Access, training: Corpus, validation: Corpus) -> tuple[Corpus, bool]:
    services.watermark.check(needed_bytes=training.bytes + validation.bytes)
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
        corpus, is_new = services.corpora.add(upload, check=access.check_corpus_quota)
    return access.record_upload(corpus, is_new=is_new)


def _marker_path(file_id: str, corpus_id: str) -> str:
    return f"openai_joined/{file_id}/{corpus_id}"
