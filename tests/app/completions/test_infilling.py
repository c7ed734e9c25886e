"""Text after the cursor, in the three calls that take it. The model goes on from a character by a table."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.service import serving_real
from tests.browser.reciting import following

# From an a: "adx" is likeliest, then "any", then "alz".
TABLE = {
    "\n": {"a": 1.0},
    "a": {"d": 0.5, "n": 0.3, "l": 0.2},
    "d": {"x": 1.0},
    "n": {"y": 1.0},
    "l": {"z": 1.0},
    **{end: {"\n": 0.9, ")": 0.1} for end in "xyz"},
    ")": {"\n": 1.0},
}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[httpx.Client]:
    """The API with the real runtime and the model `table`."""
    settings = ApiSettings(data_dir=tmp_path_factory.mktemp("api"), redis_url=redis_url)
    with serving_real(settings, following("table", TABLE)) as client:
        yield client


def completed(http: httpx.Client, suffix: str, **fields: Any) -> list[str]:
    """Return the texts of completions."""
    body = {"prompt": "a", "suffix": suffix, "temperature": 0, "until": "line"} | fields
    answer = http.post("/v1/models/table/complete", json=body)
    assert answer.status_code == 200, answer.text
    return [one["text"] for one in answer.json()["completions"]]


def by_openai(http: httpx.Client, suffix: str) -> list[str]:
    sdk = openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none")
    completion = sdk.completions.create(
        model="table", prompt="a", suffix=suffix, temperature=0, extra_body={"until": "line"}
    )
    return [one.text for one in completion.choices]


def by_infill(http: httpx.Client, suffix: str) -> list[str]:
    return [http.post("/infill", json={"input_prefix": "a", "input_suffix": suffix}).json()["content"]]


@pytest.mark.parametrize("call", [completed, by_openai, by_infill])
@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("", "dx"),
        ("\n", "dx"),
        ("dx", ""),  # nothing is missing
        ("y\n", "n"),  # and the y of the candidate is left out
        ("z", "l"),
        (")", "dx"),
        ("\N{GRINNING FACE}", "dx"),  # no known character
    ],
)
def test_candidate_that_fits_the_text_after_the_cursor_is_taken_and_repeats_none_of_it(
    http: httpx.Client, call: Callable[..., list[str]], suffix: str, text: str
) -> None:
    assert call(http, suffix) == [text]


def test_as_many_as_asked_for_are_returned_the_best_first(http: httpx.Client) -> None:
    assert completed(http, "y\n", n=3)[0] == "n"
    assert len(completed(http, "y\n", n=20)) == 20
    assert completed(http, "z", temperature=1, seed=1, n=1) == ["l"]
    assert completed(http, "z", logprobs=1) == ["dx"]  # one candidate, without a beam search
    assert completed(http, "z", echo=True) == ["al"]


def test_stream_has_the_same_text_at_once(http: httpx.Client) -> None:
    body = {"prompt": "a", "suffix": "z", "temperature": 0, "until": "line", "stream": True}
    lines = http.post("/v1/models/table/complete", json=body).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [event["text"] for event in events if "text" in event] == ["l"]
    assert events[-1]["usage"]["completion_characters"] == 1
    body = {
        "input_prefix": "a",
        "input_suffix": "z",
        "stream": True,
        "t_max_prompt_ms": 1,
        "t_max_predict_ms": 60_000,
    }
    lines = http.post("/infill", json=body).text.splitlines()  # with pings while the machine is busy
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "".join(piece["content"] for piece in pieces) == "l"
