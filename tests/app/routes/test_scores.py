from typing import Any

import pytest

from tests.app.fakes import publish
from tests.app.service import Service, error_of

SCORE = "/v1/models/fake/score"


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)


def test_text_is_scored_character_by_character(service: Service) -> None:
    answer = service.http.post(SCORE, json={"text": "fox→"})
    assert answer.json() == {
        "object": "score",
        "model": "fake@1",
        "characters": 4,
        "total_bits": 11.0,
        "bits_per_character": 2.75,
        "bits": [1.0, 1.0, 1.0, 8.0],
        "lines": None,
        "unknown_characters": ["→"],
    }


def test_lines_are_scored_each_by_itself(service: Service) -> None:
    answer = service.http.post(SCORE, json={"lines": ["ab", "", "é→"]}).json()
    assert answer["lines"] == [
        {"characters": 2, "total_bits": 2.0, "bits_per_character": 1.0, "bits": [1.0, 1.0]},
        {"characters": 0, "total_bits": 0.0, "bits_per_character": 0.0, "bits": []},
        {"characters": 2, "total_bits": 16.0, "bits_per_character": 8.0, "bits": [8.0, 8.0]},
    ]
    assert (answer["bits"], answer["characters"], answer["total_bits"]) == (None, 4, 18.0)
    assert answer["unknown_characters"] == ["é", "→"]


def test_detail_line_leaves_characters_out(service: Service) -> None:
    answer = service.http.post(SCORE, json={"lines": ["ab"], "detail": "line"}).json()
    assert answer["lines"][0]["bits"] is None
    assert service.http.post(SCORE, json={"text": "ab", "detail": "line"}).json()["bits"] is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "body"),
        ({"text": "a", "lines": ["b"]}, "body"),
        ({"text": ""}, "text"),
        ({"text": "a" * 1_000_001}, "text"),
        ({"text": 5}, "text"),
        ({"lines": []}, "lines"),
        ({"lines": "abc"}, "lines"),
        ({"lines": [1]}, "lines.0"),
        ({"lines": ["a" * 600_000] * 2}, "body"),
        ({"lines": ["a"] * 10_001}, "lines"),
        ({"text": "a", "detail": "much"}, "detail"),
        ({"text": "a", "threshold": 1}, "threshold"),
    ],
)
def test_wrong_fields_are_named(service: Service, body: dict[str, Any], param: str) -> None:
    assert error_of(service.http.post(SCORE, json=body), 422)["param"] == param


def test_unknown_model_is_404(service: Service) -> None:
    answer = service.http.post("/v1/models/nobody/score", json={"text": "a"})
    assert error_of(answer, 404)["code"] == "model_not_found"
