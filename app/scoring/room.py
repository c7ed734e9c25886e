"""Scores of texts and lines, streams of lines, calibrations and evaluations."""

from pydantic import Field

from nextchar.app.core_settings import CoreSettings
from nextchar.app.http.limits import LOCKING
from nextchar.app.http.services import Services
from nextchar.app.room import Room
from nextchar.app.scoring import routes
from nextchar.app.scoring.earlier_lines import EarlierLines
from nextchar.app.scoring.scored_lines import ScoredLines
from nextchar.app.scoring.streams import Limits, StreamLocks, Streams

_KEYS_SHARE_OF_STREAMS = 0.25  # of the kept streams of lines, for each API key


class ScoringSettings(CoreSettings):
    """A part of `nextchar.app.rooms.ApiSettings`."""

    max_streams: int = Field(
        10_000,
        ge=1,
        description="Streams of lines (`stream_id`) whose state is kept; above it the least recently used"
        " start again. With API keys each key may have a quarter.",
    )
    max_stream_bytes: int = Field(64 << 20, ge=1 << 20, description="Redis memory for the states of streams.")


def _open(services: Services) -> None:
    settings = services.settings_of(ScoringSettings)
    share = _KEYS_SHARE_OF_STREAMS if settings.api_keys_file else 1.0
    limits = Limits(settings.max_streams, settings.max_stream_bytes, share)
    streams = services.add(Streams(services.redis, limits))
    services.add(StreamLocks(streams, services.pools.limiter(LOCKING)))
    services.add(EarlierLines())
    services.add(ScoredLines(services.redis))


SCORING = Room("scoring", _open, (routes.router,), ScoringSettings, is_called_at_keystrokes=True)
