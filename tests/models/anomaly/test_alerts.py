import pytest

from nextchar.models.anomaly.alerts import (
    MAX_LINE_CHARACTERS,
    AlertKey,
    AlertLabel,
    Occurrence,
    alert_key_of,
    severity_of,
    template_of,
    title_of,
)
from nextchar.models.anomaly.spans import Span
from nextchar.models.text.templates import Templates


def span_of(text: str, part: str, bits: float = 10.0) -> Span:
    start = text.index(part)
    return Span(start, start + len(part), bits)


def test_lines_that_differ_in_numbers_have_one_template() -> None:
    first, second = "sshd[24200]: port 38926 open", "sshd[7]: port 0x1f open"
    assert template_of(first) == template_of(second) == "sshd[<*>]: port <*> open"


def test_the_anomalous_word_is_part_of_the_group() -> None:
    text = "user root from nowhere port 22"
    at_user, at_host = (
        alert_key_of(text, [span_of(text, "root")]),
        alert_key_of(text, [span_of(text, "nowhere")]),
    )
    assert (at_user.template, at_user.span) == ("user root from nowhere port <*>", "1:root")
    assert at_host.template_id == at_user.template_id
    assert at_host.alert_id("m") != at_user.alert_id("m")


def test_the_span_with_the_most_bits_decides() -> None:
    text = "user root from nowhere"
    spans = [span_of(text, "user", 3.0), span_of(text, "nowhere", 30.0), span_of(text, "root", 5.0)]
    assert alert_key_of(text, spans).span == "3:nowhere"


def test_any_part_of_a_value_that_changes_gives_the_same_group() -> None:
    first, second = "port 12345 open", "port 999 open"
    groups = {alert_key_of(first, [Span(7, 9, 5.0)]), alert_key_of(second, [Span(5, 8, 5.0)])}
    assert groups == {AlertKey("port <*> open", "1:<*>")}


def test_the_value_of_the_anomalous_word_is_kept_where_the_template_has_a_parameter() -> None:
    group = alert_key_of("port 12345 open", [Span(7, 9, 5.0)])
    assert (group.span, group.value) == ("1:<*>", "12345")
    assert alert_key_of("port 12345 open", [Span(0, 4, 5.0)]).value == ""
    assert group.alert_id("m") == alert_key_of("port 7 open", [Span(5, 6, 5.0)]).alert_id("m")


def test_a_span_that_covers_several_words_is_that_of_the_longest_part() -> None:
    text = "a unexpected b"
    assert alert_key_of(text, [Span(0, len(text), 9.0)]).span == "1:unexpected"


def test_the_templates_of_a_model_group_words_that_vary() -> None:
    logins = [f"login of {name} from home" for name in ("ann", "bob", "eve", "joe")]
    known = Templates.fit([*logins, "disk full"])
    groups = {
        alert_key_of(text, [span_of(text, name)], template=known.template_of(text).pattern)
        for name in ("mallory", "trudy")
        for text in [f"login of {name} from home"]
    }
    assert groups == {AlertKey("login of <*> from home", "2:<*>")}


def test_an_alert_is_the_same_for_every_version_but_not_for_another_model() -> None:
    group = AlertKey("a <*>", "0:a")
    assert group.alert_id("m") == AlertKey("a <*>", "0:a").alert_id("m") != group.alert_id("other")


def test_what_is_kept_of_a_line_is_bounded() -> None:
    line = "é\ud800" + "x" * 5_000
    kept = Occurrence(
        AlertKey(line, "0:" + line[:60]),
        model="m",
        version=1,
        line=line,
        score=9.0,
        p_value=0.001,
        estimated_p=0.001,
        spans=[Span(4_000, 4_010, 5.0), *(Span(i, 6_000, 1.0) for i in range(100))],
        time=0.0,
        source="s" * 5_000,
    ).dump()
    assert len(kept["line"]) <= MAX_LINE_CHARACTERS
    assert kept["source"] == "s" * 200
    kept["line"].encode()  # raises with an unpaired surrogate
    kept["template"].encode()
    assert len(kept["spans"]) <= 20
    assert max(span["end"] for span in kept["spans"]) <= MAX_LINE_CHARACTERS


@pytest.mark.parametrize(
    ("p_value", "severity"), [(0.5, "info"), (0.0011, "info"), (0.001, "warning"), (0.0001, "critical")]
)
def test_the_rarer_the_more_severe(p_value: float, severity: str) -> None:
    assert severity_of(p_value) == severity


def test_the_id_of_an_alert_stays_the_same_in_all_versions_of_nextchar() -> None:
    """Stored labels and suppressions name it."""
    key = AlertKey("a <*>", "0:a")
    assert key.alert_id("m") == "alert_927fc271d66ed6abce548f65"
    assert key.template_id == "d4514bf5585958aa21eeda64"


def test_a_line_of_a_normal_alert_counts_by_how_much_it_exceeds_the_labeled_ones() -> None:
    assert [AlertLabel("normal", 5.0).lowered(score) for score in (4.0, 5.0, 5.5, 9.0)] == [0, 0, 0.5, 4]
    assert AlertLabel("normal").lowered(4.0) == 4.0
    assert AlertLabel("anomalous", 5.0).lowered(4.0) == 4.0


@pytest.mark.parametrize(
    ("line", "span", "title"),
    [
        ("user root logged in", (5, 9), "user »root« logged in"),
        ("user root logged in", None, "user root logged in"),
        ("root", (0, 4), "»root«"),
        ("a" * 201, None, "a" * 200 + "…"),
        ("a" * 300 + "b" * 100 + "c" * 300, (300, 400), f"…{'a' * 50}»{'b' * 100}«{'c' * 50}…"),
        ("a" * 900, (10, 900), f"…»{'a' * 200}«…"),
        ("10.20.3.4 " * 40, (200, 209), f"…{'10.20.3.4 ' * 9}»10.20.3.4«{' 10.20.3.4' * 9}…"),
        (f"{'x' * 300} root {'y' * 300}", (301, 305), f"…{'x' * 97} »root« {'y' * 97}…"),
    ],
)
def test_a_title_is_the_line_with_its_anomalous_part_marked(
    line: str, span: tuple[int, int] | None, title: str
) -> None:
    assert title_of(line, span) == title
