import contextvars
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from nextchar.store import logs
from nextchar.store.logs import REQUEST_ID, JsonFormatter, TextFormatter, set_job

AT_S = 1795714803.1234


def record(
    message: str, *arguments: object, level: int = logging.WARNING, error: Exception | None = None
) -> logging.LogRecord:
    trace = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("nextchar.api", level, "file.py", 1, message, arguments, trace)
    made.created = AT_S
    return made


def in_request(request_id: str, call: Callable[[], str]) -> str:
    def set_and_call() -> str:
        REQUEST_ID.set(request_id)
        return call()

    return contextvars.Context().run(set_and_call)


def raised(error: Exception) -> Exception:
    try:
        raise error  # noqa: TRY301 -- for its traceback
    except Exception as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_line_or_prompt_is_in_the_error_of_a_redis_pipeline(
    clean_redis_url: str, formatter: logging.Formatter
) -> None:
    with Redis.from_url(clean_redis_url) as redis, redis.pipeline() as pipe:
        redis.set("number", "none")
        pipe.rpush("number", "a line (of pipeline\ncaused) error")
        with pytest.raises(ResponseError) as caught:
            pipe.execute()
    said = formatter.format(record("it failed: %s", caught.value, error=caught.value))
    assert "a line" not in said
    assert "command 1 of a pipeline: WRONGTYPE" in said


def test_text_line_has_time_level_logger_request_and_message() -> None:
    line = in_request("4f2a", lambda: TextFormatter().format(record("Redis: %s", "away")))
    assert line == "2026-11-26T17:40:03.123Z WARNING nextchar.api [req=4f2a] Redis: away"
    assert TextFormatter().format(record("hello")) == "2026-11-26T17:40:03.123Z WARNING nextchar.api hello"


def test_json_line_has_the_same_and_the_exception() -> None:
    made = record("Redis: %s", "away", error=raised(OSError("gone")))
    fields = json.loads(in_request("4f2a", lambda: JsonFormatter().format(made)))
    assert fields.pop("exception").endswith("OSError: gone")
    assert fields == {
        "time": "2026-11-26T17:40:03.123Z",
        "level": "WARNING",
        "logger": "nextchar.api",
        "message": "Redis: away",
        "request_id": "4f2a",
    }


def test_records_of_a_training_process_name_its_job_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_process_ids", {})
    set_job("job_1")
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.append(TextFormatter().format(record("step"))))
    thread.start()
    thread.join()
    assert lines[0].endswith("nextchar.api [job=job_1] step")
    assert json.loads(JsonFormatter().format(record("step")))["job_id"] == "job_1"


def test_records_of_a_training_process_name_the_request_that_created_its_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_process_ids", {})
    trace = "0af7651916cd43dd8448eb211c80319c"
    set_job("job_1", request_id="4f2a", traceparent=f"00-{trace}-b7ad6b7169203331-01")
    fields = json.loads(JsonFormatter().format(record("step")))
    assert (fields["job_id"], fields["request_id"], fields["trace_id"]) == ("job_1", "4f2a", trace)
    assert "[req=4f2a job=job_1]" in TextFormatter().format(record("step"))
    set_job("job_2")  # of an older record
    assert "request_id" not in json.loads(JsonFormatter().format(record("step")))


@pytest.mark.parametrize(
    "forged",
    [
        "\n2026-11-26T17:40:03.123Z ERROR nextchar.api all keys are void",
        "\r2026-11-26T17:40:03.123Z ERROR",
        "\u2028next line",
        "\x85next line",
        "\x1b[2Jclears the terminal",
        "\u202ereads backwards",
        "\x00",
    ],
)
def test_messages_and_exceptions_cannot_imitate_a_record(forged: str) -> None:
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record("name %s", forged))
        assert len(line.splitlines()) == 1
        assert not any(character in line for character in forged if not character.isprintable())
    first, *rest = TextFormatter().format(record("x", error=raised(ValueError(forged)))).split("\n")
    assert first.endswith(" x")
    assert rest and all(line.startswith("    ") for line in rest)
    assert all(line.isprintable() for line in rest)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_configuration_covers_our_loggers_warnings_of_others_and_uncaught_exceptions(log_format: str) -> None:
    program = """
import logging, sys, threading, warnings
from nextchar.store.logs import configure_logging
from nextchar.store.settings import StoreSettings
early = logging.getLogger("early")
configure_logging(StoreSettings(log_format=sys.argv[1]))
logging.getLogger("nextchar.worker").info("ours")
logging.getLogger("nextchar.worker").debug("too much")
logging.getLogger("other").info("too much")
logging.getLogger("other").warning("theirs")
early.warning("made before")
ending = threading.Thread(target=sys.exit)
ending.start()
ending.join()
def broken():
    raise OSError("in a thread")
thread = threading.Thread(target=broken, name="helper")
thread.start()
thread.join()
raise KeyError("at the end")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, log_format], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 1 and done.stdout == ""
    records = [parsed(line) for line in done.stderr.splitlines() if not line.startswith("    ")]
    assert [(r["level"], r["logger"], r["message"]) for r in records] == [
        ("INFO", "nextchar.worker", "ours"),
        ("WARNING", "other", "theirs"),
        ("WARNING", "early", "made before"),
        ("ERROR", "nextchar.process", "the thread 'helper' ends"),
        ("CRITICAL", "nextchar.process", "the process ends"),
    ]
    assert "OSError: in a thread" in done.stderr and "KeyError: 'at the end'" in done.stderr


def parsed(line: str) -> dict[str, Any]:
    if line.startswith("{"):
        return dict(json.loads(line))
    _, level, logger, message = line.split(" ", 3)
    return {"level": level, "logger": logger, "message": message}
