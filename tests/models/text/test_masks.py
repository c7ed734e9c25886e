import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.models.errors import InvalidInput
from nextchar.models.text.masks import MAX_PIECE_CHARACTERS, NAMED, Masks, check_speed, pieces


@pytest.mark.parametrize(
    ("name", "text", "masked"),
    [
        ("numbers", "port 40454 ssh2, 3.5", "port ⓝ ssh2, ⓝ.ⓝ"),
        ("ip", "from 173.234.31.186:22 to fe80::1ff:fe23:4567:890a", "from ⓘ:22 to ⓘ"),
        ("hex", "at 0xDEADBEEF in 00105e94, feed me", "at ⓗ in ⓗ, feed me"),
        ("uuid", "id=123e4567-e89b-12d3-a456-426614174000;", "id=ⓤ;"),
        ("timestamp", "Dec 10 06:55:46 up", "ⓣ up"),
        ("timestamp", "2005-06-03-15.42.50.675872 R02", "ⓣ R02"),
        ("timestamp", "[2026-11-25T03:00:50Z] x", "[ⓣ] x"),
        ("date", '- [30/Jan/2024:21:04:18 +0000] "GET', '- [ⓓ] "GET'),
        ("date", "[Sat Dec 30 09:00:01.123 2023] x", "[ⓓ] x"),
        ("date", "17/06/09 20:10:40 INFO", "ⓓ INFO"),
        ("date", "03-17 16:13:00.117  1702", "ⓓ  1702"),
        ("date", "Mon, 9 Jun 2025 10:11:12 a May 4 may", "ⓓ a May 4 may"),
        ("date", "I0930 18:00:03.654321  2731 scope.go:110] x", "Iⓓ  2731 scope.go:110] x"),
        ("date", "20171223-22:15:29:606|Step", "ⓓ|Step"),
        ("date", "Dec 10, 2023 6:55:46 AM x", "ⓓ x"),
        ("date", "1/2 of 3-4, 10.30", "1/2 of 3-4, 10.30"),
        ("date", "5/0/0/71/80 200", "5/ⓓ/80 200"),
        ("calendar_date", "5/0/0/71/80 200 10/10/30/69/109", "5/0/0/71/80 200 10/10/30/69/109"),
        ("calendar_date", "17/06/09 20:10:40 at 1/31/2024, 2024/02/03", "ⓨ at ⓨ, ⓨ"),
        ("calendar_date", "- [30/Jan/2024:21:04:18 +0000] 03-17 16:13:00.117", "- [ⓨ] ⓨ"),
        ("long_numbers", "blk_-1608 rdd_26 x12345y", "blk_-ⓛ rdd_26 xⓛy"),
        ("digits", "rdd_26_7 R02", "rdd_ⓖ_ⓖ Rⓖ"),
        ("loose_time", "20171223-23:21:0:125|Step", "ⓒ|Step"),
        ("hostname", "from ns3.example.co.uk (web-1.lan.local)", "from ⓢ (ⓢ)"),
        (
            "hostname",
            "example.com, org.apache.Task, jline.min.jar",
            "example.com, org.apache.Task, jline.min.jar",
        ),
        ("alphanumeric", "req 8f3kq9 of pod-7d9f8b, stage12 in 254ms", "req ⓐ of pod-ⓐ, stage12 in 254ms"),
        ("compact_time", "081109 203615 148 INFO", "ⓚ 148 INFO"),
        ("compact_time", "20260301T165001.123Z up", "ⓚ up"),
        ("compact_time", "081399 203615 and 081109 253615", "081399 203615 and 081109 253615"),
        ("padded_time", "# Time: 230311 23:26:49", "# Time: ⓟ"),
        ("padded_time", "230312  0:31:35 and 230312 0:31:35", "ⓟ and 230312 0:31:35"),
        ("padded_time", "231312 10:31:35 and 230312 25:31:35", "231312 10:31:35 and 230312 25:31:35"),
        ("local_date", "[nov 17 01:02:29.484] [ message]", "[ⓩ] [ message]"),
        ("local_date", "Okt  2 12:12:00 web", "ⓩ web"),
        ("local_date", "nov 17 25:02:29, note 17 01:02:29", "nov 17 25:02:29, note 17 01:02:29"),
        ("elapsed", "  3:21 Kill: 2 at 3:21 of 9", "ⓥKill: 2 at 3:21 of 9"),
        ("elapsed", "[103:59] 3:75", "ⓥ 3:75"),
        ("elapsed", "3:75 in 12:30:15", "3:75 in 12:30:15"),
        ("uptime", "kernel: [    0.584655] [drm] up", "kernel: ⓔ [drm] up"),
        ("uptime", "[0.005s][info][gc] of [1.5] and [12]", "ⓔ[info][gc] of [1.5] and [12]"),
        ("uptime", "[0,005s][info] of [1,005]", "ⓔ[info] of [1,005]"),
        ("mac", "MAC=56:00:03:85:82:df:fe:00:03:85:82:da:08:00 SRC", "MAC=ⓜ SRC"),
        ("mac", "00-1A-2B-3C-4D-5E at 12:34:56", "ⓜ at 12:34:56"),
        ("sshd\\[[0-9]+\\]", "LabSZ sshd[24200]: hi", "LabSZ ⓞ: hi"),
    ],
)
def test_a_mask_replaces_its_matches(name: str, text: str, masked: str) -> None:
    assert Masks([name]).apply(text).text == masked


def test_the_leftmost_match_wins_then_the_first_mask() -> None:
    assert Masks(["timestamp", "ip", "numbers"]).apply("10.0.0.1 at 12:00:01 7").text == "ⓘ at ⓣ ⓝ"
    assert Masks(["numbers", "ip"]).apply("10.0.0.1").text == "ⓝ.ⓝ.ⓝ.ⓝ"


def test_every_character_maps_to_its_original_position() -> None:
    text = "é 10.0.0.1 and 22\nport 7"
    masked = Masks(["ip", "numbers"]).apply(text)
    assert masked.text == "é ⓘ and ⓝ\nport ⓝ"
    for position, character in enumerate(masked.text):
        if character not in "ⓘⓝ":
            assert text[masked.origin(position)] == character
    assert text[masked.origin(2) : masked.origin(3)] == "10.0.0.1"
    assert masked.origin(len(masked.text)) == len(text)


def test_no_masks_change_nothing() -> None:
    masks = Masks([])
    assert not masks and masks.apply("7").text == "7" and masks.apply("7").origin(1) == 1


def test_masking_does_not_depend_on_the_pieces() -> None:
    text = "port 404\nat 5\n\nlast 66"
    for boundary in range(len(text)):
        pieces = Masks(["numbers"]).apply_to_pieces([text[:boundary], text[boundary:]])
        assert "".join(pieces) == "port ⓝ\nat ⓝ\n\nlast ⓝ"


_CUSTOM = (r"\b(?P<a>x*)(é?)", r"[^a]b|\w+$", r"(é)(x)?", r"\B[0-9]", r"^é+", r"\Cx")


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([*NAMED, *_CUSTOM]), min_size=1, max_size=5),
    st.lists(
        st.sampled_from(["é", "a", "b", "x", "1", "2026-11-27", "10:00:01", ":", ".", " ", "\n", "0x", "Jan"])
    ),
)
def test_replacing_gives_the_text_of_the_positions(masks: list[str], parts: list[str]) -> None:
    compiled, text = Masks(masks), "".join(parts)
    assert compiled.replace(text) == "\n".join(compiled.apply(line).text for line in text.split("\n"))


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="a1 é.\n", max_size=60))
def test_long_lines_are_masked_in_the_same_pieces_everywhere(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextchar.models.text.masks.MAX_PIECE_CHARACTERS", 7)
        masks = Masks(["hostname", "digits", r"a.*\."])
        divided = list(pieces(text))
        assert "".join(divided) == text and all(len(piece) <= 7 for piece in divided)
        expected = masks.replace(text)
        assert masks.apply(text).text == expected
        assert "".join(masks.replace(piece) for piece in divided) == expected


def test_search_reads_a_bounded_part_of_a_long_line() -> None:
    masks = Masks([r"a.*b"])
    longest = "a" + "x" * (MAX_PIECE_CHARACTERS - 2) + "b"
    assert masks.replace(longest) == masks.apply(longest).text == "ⓞ"
    longer = "a" + longest[:-1] + "b"
    assert masks.replace(longer) == masks.apply(longer).text == longer
    spaced = "é" + "x" * (MAX_PIECE_CHARACTERS - 3) + " ab"
    assert masks.replace(spaced) == masks.apply(spaced).text == spaced[:-2] + "ⓞ", "divided at the space"


def _worst_seconds_per_character(mask: str, length: int) -> float:
    masks = Masks([mask])
    took: list[float] = []
    for unit in ("x", "a", "a1", "a."):
        line = (unit * length)[:length]
        began_s = time.thread_time()
        masks.replace(line)
        took.append(time.thread_time() - began_s)
    return max(took) / length


@pytest.mark.parametrize(
    "mask", ["hostname", "alphanumeric", r"x(?:.*y)?", r"[ab](?:.*b)?c?", r"a(?:\w*\d+y)?"]
)
def test_masking_takes_linear_time_on_the_worst_lines(mask: str) -> None:
    # In quadratic time, a piece of 50,000 characters takes ten times as long for each of them.
    assert _worst_seconds_per_character(mask, 50_000) < 4 * _worst_seconds_per_character(mask, 5_000) + 1e-6


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab1é xy", max_size=80))
def test_short_matches_of_a_long_line_are_those_of_a_search_to_its_end(text: str) -> None:
    masks = Masks([r"x(?:.{0,3}y)?", r"\b[a1é]{2,4}\b", r"ab?$", r"^[xy]1?"])  # of less than 8 bytes
    longer = Masks([r"x(?:.*y)?", r"a.*é", "numbers"])
    expected = list(masks.matches(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextchar.models.text.masks._WHOLE_SEARCHES", 1)
        patch.setattr("nextchar.models.text.masks._WINDOW_BYTES", 20)
        assert list(masks.matches(text)) == expected
        assert longer.replace(text) == longer.apply(text).text == "".join(longer.apply_to_pieces([*text]))


def test_expressions_that_are_slow_on_some_line_are_rejected() -> None:
    check_speed([r"x(?:.*y)?", r"sshd\[[0-9]+\]", "hostname"])
    with pytest.raises(InvalidInput, match="takes too long, for example on a line of 'x'") as caught:
        check_speed([r"x(?:(?:\w{1,60}\s?){1,12}!)?"])
    assert (caught.value.code, caught.value.param) == ("invalid_mask", "masks")


@pytest.mark.parametrize("text", ["x" * 100, "x\n" * 100])
def test_masking_can_be_stopped_within_a_line_and_between_lines(text: str) -> None:
    checks: list[None] = []

    def check() -> None:
        checks.append(None)
        if len(checks) == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Masks([r"x(?:.*y)?"], check=check).replace(text)


@pytest.mark.parametrize(
    "pattern", ["(a", "a*", r"(a)\1", "(?=a)", "x" * 501, "((a{90}){90}){90}", "(?P<a", ""]
)
def test_invalid_expressions_are_rejected(pattern: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Masks([pattern])
    assert (caught.value.code, caught.value.param) == ("invalid_mask", "masks")


def test_expressions_with_exponential_backtracking_run_in_linear_time() -> None:
    masks = Masks(["(a+)+b", "([a-z]+)*c"])
    started = time.thread_time()
    masks.apply("a" * 20_000 + "!")
    assert time.thread_time() - started < 5


@given(st.text("aF0 1:.-/xⓝé\n", max_size=40))
def test_matches_in_bytes_are_those_in_text(text: str) -> None:
    masks = Masks(["timestamp", "hex", "long_numbers", "x+"])
    for line in text.split("\n"):
        in_text = list(masks._found_in_text(line, masks._pattern_with_short))
        expected = [(start, end, 2 if mask < 0 else mask) for start, end, mask in in_text]
        assert [match for match, _ in masks.values(line, short_numbers=True)] == expected
        assert [value.is_short for _, value in masks.values(line, short_numbers=True)] == [
            mask < 0 for *_, mask in in_text
        ]
