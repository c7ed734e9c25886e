"""Uploads, archives and names of texts."""

from collections.abc import Collection

from nextchar.app.corpora import routes
from nextchar.app.room import Folder, Room
from nextchar.store.blobs import Blobs

_ABOUT_CORPORA = ("corpus_kinds", "corpus_names", "corpus_versions", "corpus_owners")


def texts_first(paths: list[str], _: Blobs, __: Collection[str]) -> list[str]:
    """Return the texts, then their records: not those whose text was uploaded while the folder was listed."""
    listed = set(paths)
    records = [path for path in paths if path.endswith("/corpus.json")]
    whole = [path for path in records if path.replace("/corpus.json", "/text") in listed]
    return [*(path for path in paths if not path.endswith("/corpus.json")), *whole]


CORPORA = Room(
    "corpora",
    routers=(routes.router,),
    folders=(*(Folder(name, ["corpora"]) for name in _ABOUT_CORPORA), Folder("corpora", choose=texts_first)),
)
