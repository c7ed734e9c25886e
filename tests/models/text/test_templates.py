"""Templates of lines, and their file."""

import json
import random
import subprocess
import sys
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextchar.models.errors import Unavailable
from nextchar.models.text import templates as templates_file
from nextchar.models.text.events import Opener
from nextchar.models.text.line_tokens import shape
from nextchar.models.text.templates import Frequencies, Templates

USERS = ["root", "ann", "bob", "eve", "oscar"]
SSH = [
    *(f"Failed password for {user} from 10.0.0.{i} port {4000 + i} ssh2" for i in range(8) for user in USERS),
    *(f"Connection closed by 10.0.0.{i} [preauth]" for i in range(9)),
    *(f"Invalid user {user} from 10.0.0.7" for user in USERS),
    "Server listening on :: port 22.",
]
KNOWN = Templates.fit(SSH)


def test_values_become_wildcards_and_words_stay() -> None:
    counts = {known.template.pattern: known.count for known in KNOWN.known}
    assert counts == {
        "Failed password for <*> from <*> port <*> ssh2": 40,
        "Connection closed by <*> [preauth]": 9,
        "Invalid user <*> from <*>": 5,
        "Server listening on :: port <*>": 1,
    }
    assert KNOWN.lines == 55 and KNOWN.is_complete


def test_a_line_has_the_template_and_the_values_of_its_wildcards() -> None:
    parsed = KNOWN.parse("Failed password for mallory from 192.168.7.7 port 22 ssh2")
    assert parsed.template.pattern == "Failed password for <*> from <*> port <*> ssh2"
    assert parsed.template.count == 40 and not parsed.template.is_new
    assert parsed.parameters == ("mallory", "192.168.7.7", "22")


def test_a_new_line_has_a_template_of_its_own_with_the_wildcards_of_the_most_similar_one() -> None:
    accepted = [
        KNOWN.template_of(f"Accepted password for {user} from 10.0.0.1 port 7 ssh2") for user in USERS
    ]
    assert {one.pattern for one in accepted} == {"Accepted password for <*> from <*> port <*> ssh2"}
    failed = [KNOWN.template_of(f"Failed publickey for {user} from 10.0.0.1 port 7 ssh2") for user in USERS]
    assert {one.pattern for one in failed} == {"Failed publickey for <*> from <*> port <*> ssh2"}
    assert len({one.id for one in failed}) == 1 and all(one.is_new and one.count == 0 for one in failed)
    assert KNOWN.template_of("disk 7 failed").pattern == "disk <*> failed"


def test_a_common_header_does_not_make_different_messages_alike() -> None:
    lines = [
        f"host app daemon worker: {a} {b}" for a in ("started", "stopped", "failed") for b in ("jobs", "mail")
    ]
    assert Templates.fit(lines * 3).known[0].template.pattern != "host app daemon worker: <*> <*>"


def test_rarities_rank_new_rare_and_frequent() -> None:
    frequent = KNOWN.parse(SSH[0])
    rare = KNOWN.parse("Server listening on :: port 22.")
    new = KNOWN.parse("Server shutting down on :: port 22.")
    assert 0 == frequent.template_bits < rare.template_bits <= new.template_bits == log2(56 / 2)
    usual = Frequencies(100, {"on": 97, "off": 2, "odd": 1})
    assert usual.rarity("on") == 0 < usual.rarity("off") == usual.rarity("odd") < usual.rarity("other")
    assert usual.rarity("odd") == pytest.approx(log2(101 / 4))  # as those that occurred twice, or once
    assert usual.rarity("other") == pytest.approx(log2(101 / 2))
    assert Frequencies(100, {}).rarity("other") == 0 == Frequencies(0, {}).rarity("any")


def test_an_unusual_value_of_a_wildcard_is_rare() -> None:
    known = Templates.fit([f"user={user} status={200 if i else 404}" for user in USERS for i in range(60)])
    bits = {s: known.parse(f"user=ann status={s}").parameter_bits for s in ("200", "404", "500", "-1")}
    assert bits["200"] == 0 < bits["404"] < bits["500"] == bits["-1"]
    assert shape("v1.20-rc3/x") == "a0.0-a0/a"


def test_ids_are_the_same_in_another_process_and_after_a_restart() -> None:
    code = (
        "import sys; from nextchar.models.text import templates as templates_file; "
        "t = templates_file.load(sys.stdin.buffer.read());"
        "print(t.template_of('Failed password for z from 3 port 1 ssh2').id, t.template_of('new é line').id)"
    )
    data = templates_file.dump(KNOWN)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    expected = [
        KNOWN.template_of(line).id for line in ("Failed password for q from 1 port 2 ssh2", "new é line")
    ]
    assert done.stdout.decode().split() == expected
    shuffled = random.Random(1).sample(SSH, len(SSH))
    assert {k.template.id for k in Templates.fit(shuffled).known} == {k.template.id for k in KNOWN.known}


def test_an_explosion_of_templates_stops_at_a_limit_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.models.text.line_tokens.MAX_TEMPLATES", 30)
    draw = random.Random(1)
    lines = ["".join(draw.choices("ab =,;:()", k=40)) for _ in range(500)]
    known = Templates.fit(lines)
    assert len(known.known) <= 30 and not known.is_complete
    assert known.unparsed + sum(one.count for one in known.known) == 500
    assert templates_file.load(templates_file.dump(known)).unparsed == known.unparsed
    assert all(known.template_of(line).pattern for line in lines)


@pytest.mark.parametrize(
    "line", ["", " ", "a" * 200_000, "=" * 200_000, "床前明月光", "\ud800", "\x00\xff", "a " * 9999]
)
def test_any_line_has_a_template(line: str) -> None:
    for known in (KNOWN, Templates.fit([]), Templates.fit([line, line])):
        parsed = known.parse(line)
        assert len(parsed.template.id) == 16 and len(parsed.template.pattern) < 20_000
        assert parsed.template_bits >= 0 and parsed.parameter_bits >= 0
    assert not Templates.fit([line, line]).template_of(line).is_new
    again = templates_file.load(templates_file.dump(Templates.fit([line])))
    assert again.parse(line) == Templates.fit([line]).parse(line)


@given(st.lists(st.text(alphabet="ab1 =,:é", max_size=24), max_size=30))
def test_every_training_line_matches_its_template_after_a_round_trip(lines: list[str]) -> None:
    known = Templates.fit(lines)
    again = templates_file.load(templates_file.dump(known))
    for line in lines:
        assert not known.template_of(line).is_new
        assert again.parse(line) == known.parse(line)
    assert sum(one.count for one in known.known) == len(lines) == known.lines


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_damaged_files_are_refused(cut: int) -> None:
    with pytest.raises(Unavailable, match="damaged"):
        templates_file.load(templates_file.dump(KNOWN)[:cut])


@pytest.mark.parametrize(
    "change",
    [
        {"lines": -1},
        {"lines": "many"},
        {"common": [1]},
        {"templates": [{"tokens": ["a", None], "first_word": "a", "count": 1, "slots": []}]},
        {"templates": [{"tokens": [3], "first_word": "a", "count": 1, "slots": []}]},
        {"templates": {}},
    ],
)
def test_impossible_files_are_refused(change: dict[str, object]) -> None:
    record = json.loads(templates_file.dump(KNOWN)) | change
    if record["templates"] == {}:
        del record["templates"]
    with pytest.raises(Unavailable, match="damaged"):
        templates_file.load(json.dumps(record).encode())


def test_only_the_end_of_a_long_text_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates_file, "MAX_CHARACTERS", 30)
    lines = templates_file.last_lines("old words here\n" * 50 + "new line\n\nnew line\n")
    assert Templates.fit(lines).lines == 3


def test_the_template_of_an_event_is_that_of_its_fingerprint_and_its_opener_is_stored() -> None:
    event = "login of ann failed\nio.AcmeException: 7\n\tat io.acme.Login.run(Login.java:{})"
    opener = Opener(frozenset({"["}), has_plain=True)
    known = Templates.fit([event.format(i) for i in range(9)] + ["login of ann ended"], opener)
    again = templates_file.load(templates_file.dump(known))
    assert again.opener == opener and templates_file.load(templates_file.dump(KNOWN)).opener is None
    found = again.template_of(event.format(99))
    assert (found.pattern, found.count) == ("login of ann failed io.AcmeException io.acme.Login.run", 9)
    assert again.template_of(event.replace("io.acme", "io.other")).is_new
    record = json.loads(templates_file.dump(known)) | {"opener": {"places": "["}}
    with pytest.raises(Unavailable, match="damaged"):
        templates_file.load(json.dumps(record).encode())
