"""Uploads, archives and names of texts."""

from nextchar.app.corpora import routes
from nextchar.app.room import Folder, Room

_ABOUT_CORPORA = ("corpus_kinds", "corpus_names", "corpus_versions", "corpus_owners")

CORPORA = Room(
    "corpora",
    routers=(routes.router,),
    folders=(*(Folder(name, ["corpora"]) for name in _ABOUT_CORPORA), Folder("corpora")),
)
