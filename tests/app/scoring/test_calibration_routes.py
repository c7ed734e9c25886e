import numpy as np
import pytest

from tests.app.fakes import publish
from tests.app.service import Service, error_of

MODEL = "/v1/models/fake"


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)


def lines(count: int = 150, *, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return ["".join(random.choice([*"abcdef→"], n)) for n in random.integers(1, 40, count)]


def test_calibrations_are_made_listed_read_and_deleted(service: Service) -> None:
    made = service.http.post(f"{MODEL}/calibrate", json={"lines": lines(), "name": "web-1", "buckets": 2})
    assert made.status_code == 201
    assert [b["lines"] for b in made.json()["buckets"]] == pytest.approx([75, 75], abs=8)
    service.http.post(f"{MODEL}/calibrate", json={"lines": lines()})
    listed = service.http.get(f"{MODEL}/calibrations").json()
    assert [one["name"] for one in listed["data"]] == ["default", "web-1"]
    assert service.http.get(f"{MODEL}/calibrations/web-1").json() == made.json()
    assert service.http.delete(f"{MODEL}/calibrations/web-1").status_code == 204
    for verb in (service.http.get, service.http.delete):
        assert error_of(verb(f"{MODEL}/calibrations/web-1"), 404)["code"] == "calibration_not_found"


def test_corpus_calibrates_with_all_its_lines(service: Service) -> None:
    corpus = service.upload("\n".join(lines(130)) + "\n")
    made = service.http.post(f"{MODEL}/calibrate", json={"corpus": corpus, "false_alarms": 0.01}).json()
    assert (made["lines"], made["source"]) == (130, f"corpus {corpus}")


def test_calibration_replaces_one_of_the_same_name(service: Service) -> None:
    for count in (10, 20):
        service.http.post(f"{MODEL}/calibrate", json={"lines": lines(count)})
    assert service.http.get(f"{MODEL}/calibrations/default").json()["lines"] == 20


def test_calibrations_are_deleted_with_their_model(service: Service) -> None:
    service.http.post(f"{MODEL}/calibrate", json={"lines": lines()})
    assert service.http.delete(MODEL).status_code == 200
    assert not [path for path in service.blobs.paths("model_files") if "calibration" in path]
    assert error_of(service.http.get(f"{MODEL}/calibrations"), 404)["code"] == "model_not_found"


def test_lines_with_crlf_are_calibrated_as_they_are_scored(service: Service) -> None:
    for name, end in (("lf", "\n"), ("crlf", "\r\n")):
        corpus = service.upload(end.join(lines()) + end)
        service.http.post(f"{MODEL}/calibrate", json={"corpus": corpus, "name": name})
    sent = "ab\r\n→→→→→→→→→→\r\nabc"
    lf, crlf = (
        service.http.post(
            f"{MODEL}/score?calibration={name}", content=sent, headers={"Content-Type": "text/plain"}
        )
        .text.replace(name, "it")
        .split("\n")[1:4]
        for name in ("lf", "crlf")
    )
    assert lf == crlf and '"anomalous":true' in lf[1]


@pytest.mark.parametrize("count", [40, 812, 999])
def test_smallest_rate_that_is_reported_is_accepted(service: Service, count: int) -> None:
    made = service.http.post(f"{MODEL}/calibrate", json={"lines": ["ab"] * count}).json()
    smallest = made["smallest_p_value"]
    assert smallest == pytest.approx(1 / (count + 1), rel=1e-3)
    body = {"lines": ["ab"], "false_alarms": smallest}
    assert service.http.post(f"{MODEL}/score", json=body).json()["false_alarms"] == smallest
    refused = service.http.post(f"{MODEL}/score", json=body | {"false_alarms": 1e-6})
    reported = float(error_of(refused, 422)["message"].rpartition("at least ")[2])
    assert service.http.post(f"{MODEL}/score", json=body | {"false_alarms": reported}).status_code == 200
    tiny = service.http.post(f"{MODEL}/score", json=body | {"false_alarms": 1e-310})
    assert error_of(tiny, 422)["param"] == "false_alarms"
