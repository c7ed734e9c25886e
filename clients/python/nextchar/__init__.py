"""nextchar from Python and from the shell: a client over HTTP, and the command line built on it.

Knows nothing of how the service works inside and imports none of its packages.

>>> from nextchar import Client
>>> with Client() as client:  # doctest: +SKIP
...     client.complete("nietzsche", "morality equals ")["completions"][0]["text"]
"""

from nextchar.client import Client
from nextchar.errors import ClientError, ServerError, ServerUnreachable

__all__ = ["Client", "ClientError", "ServerError", "ServerUnreachable"]
