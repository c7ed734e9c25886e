"""Completions and the distribution of the next character."""

from nextchar.app.completions import routes
from nextchar.app.room import Room

COMPLETIONS = Room("completions", routers=(routes.router,), is_called_at_keystrokes=True)
