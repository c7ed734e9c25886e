"""Suggestions: different completions of a field in one call, and the counts that rank them."""

from nextchar.app.http.services import Services
from nextchar.app.models.names import ModelFollowers
from nextchar.app.operations.retention import Retention
from nextchar.app.room import Folder, Room
from nextchar.app.suggestions import routes
from nextchar.app.suggestions.counts import FOLDER, CountedSuggesters, LineCounts


def _open(services: Services) -> None:
    counts = services.add(LineCounts(services.blobs))
    suggesters = services.add(CountedSuggesters(counts))
    services.closes(suggesters.close)
    services[ModelFollowers].append(lambda name: counts.follow(services.models, name))
    services[Retention].add("counts of former models", lambda _: counts.sweep(services.models))


SUGGESTIONS = Room(
    "suggestions",
    _open,
    (routes.router,),
    is_called_at_keystrokes=True,
    folders=(Folder(FOLDER, ["model_cards"], moves=True),),
)
