"""The short form of `make fuzz`: the cases that do not depend on chance."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis

from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, serving
from tests.fuzz import openapi


@pytest.fixture
def service(tmp_path: Path, clean_redis_url: str) -> Iterator[Service]:
    with serving(ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0)) as running:
        publish(running.models)
        yield running


@pytest.mark.timeout(300)
def test_no_answer_is_outside_the_description(tmp_path: Path, clean_redis_url: str) -> None:
    with openapi.service(tmp_path / "data", clean_redis_url) as (url, known):
        status, printed = openapi.run(
            url, known, seconds=240, seed=20261127, folder=tmp_path, phases=("examples", "coverage")
        )
    assert status == 0, printed[-8000:]
    assert re.search(r"Selected: 103/104\b", printed), printed  # it has found the operations


def test_answers_that_depend_on_the_request_are_described(service: Service) -> None:
    corpus = service.http.post("/v1/corpora?encoding=bytes", content=b"\xff\xfe").json()["id"]
    lines = {"content": b"ab\n", "headers": {"Content-Type": "text/plain"}}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/infill", {"json": {"prompt": "a", "response_fields": ["", "timings/prompt_n"]}}),
        ("POST", "/v1/models/{model}/infill", {"json": {"response_fields": []}}),
        ("POST", "/v1/models/{model}/score", lines),
        ("GET", "/v1/files/{file}/content", {}),
    ]
    description = service.http.get("/openapi.json").json()
    operations = schemathesis.openapi.from_dict(description)
    for method, path, options in calls:
        answer = service.http.request(method, path.format(model="fake", file=corpus), **options)
        assert answer.status_code == 200, answer.text
        media_type = answer.headers["content-type"].partition(";")[0]
        assert media_type in description["paths"][path][method.lower()]["responses"]["200"]["content"]
        operations[path][method].validate_response(answer)
