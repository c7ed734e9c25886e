"""Suggestions over HTTP, of real networks."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.service import error_of, serving_real
from tests.models.runtime.networks import saved_model

NAMES = {"london": 9, "lodz": 1, "long beach": 4, "new london": 2, "paris": 7, "new paris": 1}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[httpx.Client]:
    """The API with a model of records with lines, one of records without, and two of text."""
    settings = ApiSettings(data_dir=tmp_path_factory.mktemp("api"), redis_url=redis_url)
    text = "".join(f"{name}\n" * count for name, count in NAMES.items())
    models = (
        saved_model(name="cities", kind="records", int8=True, mixed_text=text, lines=NAMES),
        saved_model(name="older", kind="records"),
        saved_model(name="verse", kind="text", mixed_text="to be\nor not\n" * 30),
        saved_model(name="prose", kind="text", mixed_text="the cat and the dog and the bird " * 20),
    )
    with serving_real(settings, *models) as client:
        yield client


def suggested(http: httpx.Client, prefix: str, *, model: str = "cities", **body: Any) -> list[dict[str, Any]]:
    answer = http.post(f"/v1/models/{model}/suggest", json={"prefix": prefix} | body)
    assert answer.status_code == 200, answer.text
    fields = answer.json()
    assert fields["prefix"] == prefix
    assert [one["id"] for one in fields["suggestions"]] == [
        f"{fields['id']}.{i}" for i in range(len(fields["suggestions"]))
    ]
    return fields["suggestions"]  # type: ignore[no-any-return]


def test_lines_of_the_corpus_are_suggested(http: httpx.Client) -> None:
    found = suggested(http, "Lon")
    assert {one["text"] for one in found[:2]} == {"london", "long beach"}
    assert [one["text"] for one in found[2:]] == ["new london"]
    assert all(one["exists"] and one["count"] == NAMES[one["text"]] for one in found)
    assert 0 < sum(one["probability"] for one in found) <= 1 + 1e-6


def test_typing_error_is_named(http: httpx.Client) -> None:
    start, inside = suggested(http, "Londn")
    assert (start["text"], start["replaced"]) == ("london", {"start": 4, "end": 5})
    assert (inside["text"], inside["replaced"]) == ("new london", {"start": 4, "end": 5})
    assert suggested(http, "Londn", typos=0) == []


@pytest.mark.parametrize("prefix", ["zzz", "😀", "\ud83d", "x" * 1000])
def test_nothing_is_suggested_where_nothing_fits(http: httpx.Client, prefix: str) -> None:
    content = b'{"prefix": "\\ud83d"}' if prefix == "\ud83d" else None
    if content:
        headers = {"content-type": "application/json"}
        answer = http.post("/v1/models/cities/suggest", content=content, headers=headers)
        assert answer.status_code in (200, 422), answer.text
    else:
        assert suggested(http, prefix) == []


def test_excluded_texts_are_not_suggested(http: httpx.Client) -> None:
    found = suggested(http, "lon", exclude=["LONDON"], exclude_patterns=["^new "])
    assert [one["text"] for one in found] == ["long beach"]
    texts = {one["text"] for one in suggested(http, "", constrain="none", exclude_patterns=["[a-m]"])}
    assert not any(set("abcdefghijklm") & set(text) for text in texts)


def test_preferred_lines_and_generated_texts_are_in_one_order(http: httpx.Client) -> None:
    found = suggested(http, "lon", constrain="prefer", limit=6)
    assert [one["text"] for one in found[:2]] == ["london", "long beach"]
    assert len(found) == 6 and all(one["text"].startswith("lon") for one in found)
    probabilities = [one["probability"] for one in found]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1
    assert len({one["text"] for one in found}) == len(found)


def test_generated_texts_begin_with_the_prefix_if_it_has_no_typing_error(http: httpx.Client) -> None:
    found = suggested(http, "londno", constrain="none")
    probabilities = [one["probability"] for one in found]
    assert found and probabilities == sorted(probabilities, reverse=True)
    exact = suggested(http, "londno", constrain="none", typos=0)
    assert exact and all(one["text"].startswith("londno") and not one["replaced"] for one in exact)


def test_suggestion_does_not_cross_the_end_of_a_line(http: httpx.Client) -> None:
    for prefix in ("to be", "to be ", "to be\n", "or", ""):
        found = suggested(http, prefix, model="verse", limit=20)
        assert found
        for one in found:
            assert one["text"].startswith(prefix) and "\n" not in one["text"][len(prefix) :]
            assert one["text"][len(prefix) :].strip()


def test_generated_lines_that_exist_are_marked(http: httpx.Client) -> None:
    found = suggested(http, "londo", constrain="none")
    assert all(one["exists"] == (one["text"] in NAMES) for one in found)
    assert all(one["count"] == NAMES.get(one["text"], 0) for one in found)


def test_model_of_prose_suggests_words(http: httpx.Client) -> None:
    found = suggested(http, "the c", model="prose", limit=3)
    assert len(found) == 3
    assert all(one["text"].startswith("the c") and not one["exists"] for one in found)
    probabilities = [one["probability"] for one in found]
    assert probabilities == sorted(probabilities, reverse=True)


def test_order_follows_the_network_where_all_counts_are_equal(http: httpx.Client) -> None:
    found = suggested(http, "", limit=6)
    assert {one["text"] for one in found} == NAMES.keys()


@pytest.mark.parametrize(
    ("model", "body", "status", "code", "param"),
    [
        ("older", {"prefix": "a", "constrain": "lines"}, 422, "no_lines", "constrain"),
        ("prose", {"prefix": "a", "constrain": "lines"}, 422, "no_lines", "constrain"),
        ("cities", {"prefix": "a", "exclude_patterns": ["("]}, 422, "invalid_pattern", "exclude_patterns"),
        ("nowhere", {"prefix": "a"}, 404, "model_not_found", "model"),
    ],
)
def test_refused(http: httpx.Client, model: str, body: Any, status: int, code: str, param: str) -> None:
    answer = http.post(f"/v1/models/{model}/suggest", json=body)
    error = error_of(answer, status)
    assert (error["code"], error["param"]) == (code, param)


def test_a_share_of_the_clients_of_an_alias_gets_another_version(http: httpx.Client) -> None:
    archive = http.get("/v1/models/older/export").content
    headers = {"Content-Type": "application/x-tar"}
    assert http.post("/v1/models/import", content=archive, headers=headers).json()["id"] == "older@2"
    share = {"version": 1, "share": {"version": 2, "fraction": 0.5}}
    assert http.put("/v1/models/older/aliases/live", json=share).is_success
    bodies = [{"prefix": "a", "limit": 1, "client_id": f"person {n}"} for n in range(20)]
    given = [http.post("/v1/models/older@live/suggest", json=body).json()["model"] for body in bodies]
    assert set(given) == {"older@1", "older@2"}
