"""The log format of all processes: lines for people (`text`) or JSON objects for programs (`json`).

    2026-11-26T17:40:03.123Z WARNING nextchar.api [req=4f2a9c] Redis does not answer: …
        Traceback (most recent call last):
        …

A line that starts with a time starts a record; its further lines are indented. Line breaks and control
characters in messages are escaped, so that client input cannot imitate a record. Never log a key, a prompt or
a text.
"""

import json
import logging
import logging.config
import re
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from nextchar.store import tracing
from nextchar.store.settings import StoreSettings

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the HTTP request that the current task or thread serves."""

MAX_MESSAGE_CHARACTERS = 8_000
MAX_EXCEPTION_CHARACTERS = 32_000

_TRACEBACK = "Traceback (most recent call last):"
# Control characters, Unicode line separators, and bidirectional overrides.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# redis-py puts the command into the error of a pipeline, with the lines and prompts among its arguments.
_COMMAND = re.compile(r"Command # (\d+) \(.*?\) of pipeline caused error: ", re.DOTALL)
_OWN_LOGGERS = ("nextchar", "models")  # the kernels log by module name
_process_ids: dict[str, str] = {}


def set_job(job_id: str, *, request_id: str | None = None, traceparent: str | None = None) -> None:
    """Set the job id of all further records of this process, in all threads.

    `request_id` and `traceparent` are those of the request that created the job. A process trains one job,
    and threads share no context.
    """
    ids = {"job_id": job_id, "request_id": request_id, "trace_id": tracing.trace_id_of(traceparent)}
    _process_ids.clear()
    _process_ids.update({name: value for name, value in ids.items() if value})


def configure_logging(settings: StoreSettings) -> None:
    """Log all records of this process, and its uncaught exceptions, to standard error."""
    logging.config.dictConfig(logging_config(settings))
    log_uncaught()


def logging_config(settings: StoreSettings) -> dict[str, Any]:
    """Return the configuration for `logging.config.dictConfig`; uvicorn takes it as `log_config`."""
    level = settings.log_level
    formatter = f"{__name__}.{'Json' if settings.log_format == 'json' else 'Text'}Formatter"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"default": {"()": formatter}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "default"}
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {name: {"level": level} for name in (*_OWN_LOGGERS, "uvicorn")},
    }


def log_uncaught() -> None:
    """Log uncaught exceptions of threads and of the process, instead of printing tracebacks."""
    log = logging.getLogger("nextchar.process")

    def log_process_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("the process ends", exc_info=(kind, error, trace))

    def log_thread_end(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not issubclass(arguments.exc_type, SystemExit):
            name = arguments.thread.name if arguments.thread else "unknown"
            trace = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
            log.error("the thread %r ends", name, exc_info=trace)

    sys.excepthook = log_process_end
    threading.excepthook = log_thread_end


class TextFormatter(logging.Formatter):
    """One line per record, for people, then the indented traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        fields = _fields(record)
        context = [
            f"{short}={escaped(fields[name])}"
            for short, name in (("req", "request_id"), ("job", "job_id"))
            if name in fields
        ]
        head = f"{fields['time']} {record.levelname} {record.name} "
        head += f"[{' '.join(context)}] " if context else ""
        lines = [head + escaped(fields["message"])]
        lines += ["    " + escaped(line) for line in fields.get("exception", "").splitlines()]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the ids that there are, exception.

    The ids are request_id, job_id and trace_id.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of ASCII."""
        return json.dumps(_fields(record))


def escaped(text: str) -> str:
    r"""Return `text` on one line, with control characters as Python writes them.

    >>> escaped("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _fields(record: logging.LogRecord) -> dict[str, str]:
    message, exception = record.getMessage(), ""
    if record.exc_info:
        exception = logging.Formatter().formatException(record.exc_info)
    elif message.startswith(_TRACEBACK):  # from uvicorn, when the start fails
        message, exception = "an exception was raised", message
    fields = {
        "time": utc(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": _shortened(_without_commands(message), MAX_MESSAGE_CHARACTERS),
        "request_id": REQUEST_ID.get() or _process_ids.get("request_id", ""),
        "job_id": getattr(record, "job_id", _process_ids.get("job_id", "")),
        "trace_id": tracing.trace_id() or _process_ids.get("trace_id", ""),
        "exception": _shortened(_without_commands(exception), MAX_EXCEPTION_CHARACTERS),
    }
    return {name: value for name, value in fields.items() if value}


def _without_commands(text: str) -> str:
    return _COMMAND.sub(r"command \1 of a pipeline: ", text)


def utc(at_s: float) -> str:
    """Return a Unix time in the format of the logs.

    >>> utc(1795714803.1234)
    '2026-11-26T17:40:03.123Z'
    """
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shortened(text: str, characters: int) -> str:
    """Return a text without its middle if it is too long: errors are mostly named at an end."""
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]} … ({len(text) - 2 * half} characters omitted) … {text[-half:]}"
