"""The flagged lines of a model's ingest stream, as they come."""

from redis.exceptions import RedisError

from nextchar.app.http.event_streams import Feeds, NewEvents, Numbered
from nextchar.app.logs.ingest.flagged_lines import FlaggedLines

_MAX_POLLED = 500


class FlaggedSource:
    """The flagged lines of one model. They have no end; their numbers start again if Redis loses its data."""

    def __init__(self, lines: FlaggedLines, model: str) -> None:
        self._lines, self._model = lines, model

    def last_number(self) -> int:
        """Return the number of the newest flagged line, 0 if there is none."""
        return self._lines.last_number(self._model)

    def read(self, after: int, limit: int) -> list[Numbered]:
        """Return up to `limit` flagged lines with numbers above `after`, oldest first."""
        return self._lines.read(self._model, after=after, limit=limit)

    def poll(self, after: int) -> NewEvents:
        """Return flagged lines with numbers above `after`; Redis keeps more than those of one poll.

        Raises RedisError: their numbers have started again; clients that connect again get all of them.
        """
        events = self.read(after, _MAX_POLLED)
        if not events and self.last_number() < after:
            raise RedisError("the flagged lines are lost, and their numbers start again")
        return NewEvents(events)


class FlaggedFeeds(Feeds):
    """The flagged lines of models that are followed."""
