"""What is stored of the sample of a rolling calibration."""

import json

import numpy as np
import pytest

from nextchar.models.anomaly.line_scores import (
    AlertReference,
    ObservedScore,
    ScoreSample,
    dump_sample,
    load_sample,
)

SAMPLE = ScoreSample(
    (
        ObservedScore(1.5, 2.25, 0, 0.0),
        ObservedScore(2.5, 7.125, 3, 0.01, AlertReference("alert_1", "a <*>", "0:a", "b")),
        ObservedScore(3.5, 0.5, 1, 0.02, AlertReference("alert_2", "c", "0:c")),
    ),
    np.array([0.25, -4.0, 8.5]),
)


@pytest.mark.parametrize("sample", [SAMPLE, ScoreSample(SAMPLE.lines[:1], SAMPLE.keys[:1])])
def test_a_sample_is_read_as_it_was_written(sample: ScoreSample) -> None:
    read = load_sample(json.loads(json.dumps(dump_sample(sample))))
    assert read.lines == sample.lines
    np.testing.assert_array_equal(read.keys, sample.keys)
    assert read.keys.flags.writeable


def test_a_sample_without_lines_can_be_stored() -> None:
    read = load_sample(dump_sample(ScoreSample((), np.zeros(0))))
    assert read.lines == () and read.keys.shape == (0,)


def test_the_stored_form_stays_the_same() -> None:
    record = {
        "lines": "eJxjYACBH/ZgioHFAULzQGkmCN0gA+U/gKqDAQ6o+Ae4eLXIOveHVS32EHoKVPwClBY4AKEVHQDG4A8Q",
        "groups": {"1": ["alert_1", "a <*>", "0:a", "b"], "2": ["alert_2", "c", "0:c", ""]},
    }
    assert load_sample(record).lines == SAMPLE.lines
    assert load_sample(record).keys.tolist() == SAMPLE.keys.tolist()


def test_a_damaged_sample_is_an_error() -> None:
    record = dump_sample(SAMPLE)
    for lines in ("", record["lines"][:-8], dump_sample(ScoreSample((), np.zeros(0)))["lines"][:-4]):
        with pytest.raises(ValueError, match=r"."):
            load_sample(record | {"lines": lines})
