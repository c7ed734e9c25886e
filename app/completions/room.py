"""Completions and the distribution of the next character."""

from nextchar.app.completions import routes
from nextchar.app.completions.requests import LongPrompts
from nextchar.app.http.services import Services
from nextchar.app.room import Room


def _open(services: Services) -> None:
    services.closes(services.add(LongPrompts()).close)


COMPLETIONS = Room("completions", _open, (routes.router,), is_called_at_keystrokes=True)
