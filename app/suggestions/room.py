"""Suggestions: different completions of a field in one call."""

from nextchar.app.room import Room
from nextchar.app.suggestions import routes

SUGGESTIONS = Room("suggestions", routers=(routes.router,), is_called_at_keystrokes=True)
