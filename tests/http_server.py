"""An HTTP server for tests that says nothing about clients that hang up."""

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class QuietHTTPServer(ThreadingHTTPServer):
    """A threading server whose standard error names the faults of its handlers only.

    A client may close its connection at any moment. The base class prints a traceback for that, which a
    test of a command in the same process takes for the command's output.
    """

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
