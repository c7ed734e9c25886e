"""nextchar from Python and from the shell: a client over HTTP, and the command line built on it.

Knows nothing of how the service works inside and imports none of its packages.

>>> from clients.python.nextchar import Client
>>> with Client() as client:  # doctest: +SKIP
...     client.complete("nietzsche", "morality equals ")["completions"][0]["text"]
"""

from clients.python.nextchar.client import Client
from clients.python.nextchar.errors import ClientError, ServerError, ServerUnreachable

__all__ = ["Client", "ClientError", "ServerError", "ServerUnreachable"]
