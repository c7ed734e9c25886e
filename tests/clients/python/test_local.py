"""Models in this process: trained, used, saved and loaded again, with the service's own results."""

import importlib.metadata
import os
import pickle
import pydoc
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

import nextchar
from nextchar import local, local_training
from nextchar.app.rooms import ApiSettings
from nextchar.errors import NextcharError
from nextchar.models.auto_preset import BASE_RULE
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.models.saved_model import SavedModel
from nextchar.notebook import figures
from nextchar.store.calibrations import MODEL_FILE
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.upload import upload_body
from tests.app.service import serving_real

TEXT = "the quick brown fox jumps over the lazy dog\nfive boxing wizards jump quickly\n" * 200
ACCENTS = "le café est fermé\nla forêt est brûlée\n" * 300


@pytest.fixture(scope="module")
def model() -> Iterator[nextchar.Model]:
    """A small model that has seen three steps."""
    options = {"preset": "tiny", "network": {"units": 32}, "budget": {"steps": 3}}
    with nextchar.train(TEXT, name="foxes", progress=False, **options) as trained:
        yield trained


@pytest.fixture(scope="module", params=["characters", "bytes"])
def french(request: pytest.FixtureRequest) -> Iterator[nextchar.Model]:
    """A small model of characters or of bytes."""
    options = {"alphabet": request.param, "preset": "tiny", "network": {"units": 32}, "steps": 3}
    with nextchar.train(ACCENTS, name="french", progress=False, **options) as trained:
        yield trained


def test_a_trained_model_knows_its_text_and_its_report(model: nextchar.Model) -> None:
    assert set(model.characters) == set(TEXT) and model.name == "foxes"
    assert model.report["steps"] == 3 and model.report["problems"] is not None
    assert "foxes" in repr(model) and "bits per character" in repr(model)
    assert "(network alone " in repr(model)


def test_the_own_figure_of_a_network_of_the_lecture_notes_comes_first(model: nextchar.Model) -> None:
    card = model._saved.card
    network = card.network.model_copy(update={"architecture": "nth_char"})
    report = {"validation_bits_per_character": 1.06, "experts": {"mixture": 1.06, "lstm": 2.86}}
    shown = dict(figures(card.model_copy(update={"network": network, "report": report})))
    assert shown["held out"] == "2.86 bits per character (mixture 1.06)"


def test_a_model_shows_its_figures_and_its_curve(model: nextchar.Model) -> None:
    summary = model.summary()
    for figure in (
        "foxes",
        "stateful_lstm",
        "bits per character (network alone ",
        "3 steps",
        "ppmd would have",
    ):
        assert figure in summary
    assert list(model.history["step"]) == [point["step"] for point in model.report["curve"]]
    shown = model._repr_html_()
    assert shown.startswith("<table>") and shown.count("<tr>") == len(summary.splitlines())
    assert "<svg" in shown and model.plot()._repr_svg_() in shown
    assert repr(model.plot()) == "Picture()" and repr(model.heatmap("ab")) == "Heatmap(text='ab')"


def test_the_bits_of_a_text_are_the_mean_of_its_characters(model: nextchar.Model) -> None:
    assert model.evaluate(TEXT[:80]) == pytest.approx(model.surprisal(TEXT[:80]).mean())
    assert model.evaluate(TEXT[:80], expert="lstm") > model.evaluate(TEXT[:80])
    with pytest.raises(InvalidInput, match="empty"):
        model.evaluate("")


def test_columns_of_data_frames_are_scored_with_their_own_kind_of_column(french: nextchar.Model) -> None:
    lines = ["la forêt est brûlée", None, "zzz 17 zzz"]
    known = [french.score([line])[0].score if line else None for line in lines]
    pandas = nextchar.score_column(french, pd.Series(lines, index=[4, 5, 6]))
    assert list(pandas.index) == [4, 5, 6]
    assert pandas.dropna().tolist() == pytest.approx([known[0], known[2]])
    frame = pl.DataFrame({"line": lines})
    frame = frame.with_columns(score=nextchar.score_column(french, frame["line"]))
    assert frame["score"].to_list() == pytest.approx(known)
    with pytest.raises(InvalidInput, match=r'give one of its columns, such as frame\["line"\]'):
        nextchar.score_column(french, frame)
    flags = nextchar.score_column(french, lines, field="anomalous")
    assert [type(flag) for flag in flags] == [bool, type(None), bool]

    database = duckdb.connect()
    database.create_function(
        "score", lambda column: nextchar.score_column(french, column), ["VARCHAR"], "DOUBLE", type="arrow"
    )
    [total, count] = database.execute("select sum(score(line)), count(*) from frame").fetchall()[0]
    assert count == 3 and total == pytest.approx(known[0] + known[2])


def test_what_can_be_used_is_listed_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"train", "load", "Client", "__version__"} <= set(dir(nextchar))
    assert nextchar.__version__ == importlib.metadata.version("nextchar")
    assert "\n    train(" in pydoc.render_doc(nextchar, renderer=pydoc.plaintext)
    monkeypatch.setattr(nextchar, "find_spec", lambda _: None)  # as where only the client is installed
    assert "Client" in dir(nextchar) and "train" not in dir(nextchar)


def test_a_files_name_is_not_taken_for_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "book.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=r"name of a file; to read it, give Path\('book.txt'\)"):
        nextchar.train("book.txt", progress=False, steps=3)
    with pytest.raises(NextcharError, match=r"give Path\('book.txt'\)"):
        upload_body("book.txt")


def test_words_of_a_text_are_suggested(model: nextchar.Model) -> None:
    found = model.suggest("th", limit=3)
    assert len(found) == 3
    assert all(one.text.startswith("th") for one in found)
    with pytest.raises(InvalidInput, match="no lines to choose from"):
        model.suggest("th", constrain="lines")
    with pytest.raises(InvalidInput, match=r"suggest: limt: there is no such option; did you mean limit\?"):
        model.suggest("th", limt=3)


def test_a_seed_gives_the_same_completion_and_n_gives_several(model: nextchar.Model) -> None:
    first = model.complete("the ", seed=7, max_characters=12)
    assert isinstance(first, str) and len(first) == 12
    assert model.complete("the ", seed=7, max_characters=12) == first
    assert len(model.complete("the ", n=3, max_characters=2)) == 3


def test_text_with_accents_gives_what_the_service_returns(
    french: nextchar.Model, tmp_path: Path, clean_redis_url: str
) -> None:
    settings = ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0)
    with serving_real(settings, french._saved) as http:

        def ask(call: str, **body: Any) -> Any:
            response = http.post(f"/v1/models/french/{call}", json=body)
            assert response.status_code == 200, response.text
            return response.json()

        for form in ("NFC", "NFD"):
            prompt, stop, line = (
                unicodedata.normalize(form, text) for text in ("le caf", "fermé", "forêt fermée")
            )
            options: dict[str, Any] = {"max_characters": 16, "temperature": 0, "stop": stop}
            [completion] = ask("complete", prompt=prompt, **options)["completions"]
            assert french.complete(prompt, **options) == completion["text"]
            likely = [
                (c["character"], c["probability"]) for c in ask("next", prompt=line, top=3)["candidates"]
            ]
            found = french.next(line, top=3)
            assert [character for character, _ in found] == [character for character, _ in likely]
            assert [p for _, p in found] == pytest.approx([p for _, p in likely], rel=1e-4)
            [scored] = ask("score", lines=[line], detail="line")["lines"]
            [score] = french.score([line])
            assert score.characters == scored["characters"] == len(french.surprisal(line))
            assert score.total_bits == pytest.approx(scored["total_bits"], rel=1e-4)


def test_a_stop_string_is_read_as_the_text_was(french: nextchar.Model) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_characters": 16}
    assert french.complete("le caf", stop="fermé", **options) == "é est "
    if french._saved.card.alphabet == "characters":
        assert french.complete("le caf", stop=unicodedata.normalize("NFD", "fermé"), **options) == "é est "
    else:
        assert french.next("le caf", top=1)[0][0] == r"\xc3"


def test_a_heat_map_has_the_bits_of_each_character(french: nextchar.Model) -> None:
    shown, bits = french.heatmap("é!"), french.surprisal("é!")
    assert shown.text == "é!" and len(shown.bits) == 2
    assert shown.bits == pytest.approx([bits[:-1].sum(), bits[-1]])
    assert shown._repr_html_().count("<span") == 2
    assert french.heatmap("")._repr_html_().count("<span") == 0


@pytest.mark.parametrize("has_data_folder", [True, False])
def test_without_a_home_kernels_are_kept_in_the_data_folder_or_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_data_folder: bool
) -> None:
    (tmp_path / "home").touch()  # a file, in which nothing can be written
    (tmp_path / "temporary").mkdir()
    if has_data_folder:
        (tmp_path / "data").mkdir()
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(local, "compile_in_child_process", lambda *_, **__: None)
    local.prepare_kernels()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.is_dir() and folder.parent.name == "compiled"
    assert folder.is_relative_to(tmp_path / ("data" if has_data_folder else "temporary"))
    assert (tmp_path / "data").exists() == has_data_folder


def test_surprisal_is_what_next_gives_the_character_at_each_place(model: nextchar.Model) -> None:
    text = "the quick"
    probability = [dict(model.next("\n" + text[:i], top=1000))[text[i]] for i in range(len(text))]
    assert model.surprisal(text) == pytest.approx(-np.log2(probability), abs=1e-3)


def test_the_network_alone_answers_if_asked_for(model: nextchar.Model) -> None:
    text = "the quick brown fox jumps"
    network, mixture = model.surprisal(text, expert="lstm"), model.surprisal(text)
    assert network.mean() > 2 * mixture.mean()  # after three steps the n-grams are far better
    assert model.next("the quic", top=1) == model.next("the quic", top=1, expert="mixture")
    probability = dict(model.next("\nthe quic", top=1000, expert="lstm"))["k"]
    assert network[len("the quic")] == pytest.approx(-np.log2(probability), abs=1e-3)
    same = model.complete("the quic", temperature=0, max_characters=9)
    assert model.complete("the quic", temperature=0, max_characters=9, expert="lstm") != same
    for ask in (model.surprisal, model.complete, model.next):
        with pytest.raises(InvalidInput, match="'rnn'"):
            ask("the ", expert="rnn")  # type: ignore[arg-type, operator]


def test_strange_lines_score_higher_than_lines_of_the_text(model: nextchar.Model) -> None:
    usual, strange = model.score(["five boxing wizards jump quickly", "QQQQQQQQQQQQQQQ"], false_alarms=0.05)
    assert usual.score is not None and strange.score is not None
    assert usual.score < strange.score and strange.anomalous
    with pytest.raises(InvalidInput, match="splitlines"):
        model.score("five boxing wizards jump quickly")


def test_a_model_without_a_calibration_does_not_score(model: nextchar.Model) -> None:
    saved = model._saved
    files = {name: entry for name, entry in saved.card.files.items() if name != MODEL_FILE}
    card = saved.card.model_copy(update={"files": files})
    with nextchar.Model(SavedModel(card, saved.file)) as alone:
        for false_alarms in (None, 0.01):
            with pytest.raises(InvalidInput, match=r"foxes.* has no calibration.* more lines") as refused:
                alone.score(["five boxing"], false_alarms=false_alarms)
            assert refused.value.code == "no_calibration"


def test_precision_and_memory_limit_are_the_services_defaults(
    model: nextchar.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = model.report
    assert report["precision"] == "float32" or report["bfloat16_speedup"] is not None  # it was measured

    def plan(*_: object, memory_limit_bytes: int, **_others: object) -> None:
        raise InvalidInput(str(memory_limit_bytes))

    monkeypatch.setattr(local_training, "plan", plan)
    with pytest.raises(InvalidInput) as refused:
        nextchar.train(TEXT, progress=False)
    assert refused.value.message == str(ApiSettings().training_memory_bytes)


@pytest.mark.parametrize("is_shown", [True, False])
def test_messages_of_the_job_are_printed_with_the_progress_bar(
    capsys: pytest.CaptureFixture[str], *, is_shown: bool
) -> None:
    log = "".join(f"2026-01-02T03:{i // 60:02}:{i % 60:02} took {i * 37} ms\n" for i in range(900))
    options: dict[str, Any] = {"preset": "tiny", "network": {"units": 32}, "steps": 2, "kind": "log"}
    with nextchar.train(log, progress=is_shown, **options) as trained:
        assert trained._saved.card.masks
    shown = " ".join(capsys.readouterr().out.split())
    assert ("masked, because these values change" in shown) is is_shown
    assert ('to generate text, pass purpose="complete" or masks=[]' in shown) is is_shown
    assert is_shown or not shown


def test_a_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    feed = Upload.feed

    def noted(upload: Upload, data: bytes) -> None:
        pieces.append(len(data))
        feed(upload, data)

    monkeypatch.setattr(Upload, "feed", noted)
    file = tmp_path / "long"
    file.write_bytes(ACCENTS.encode() * 200)
    corpora = Corpora(open_blobs((tmp_path / "store").as_uri()))
    corpus = local_training._add(corpora, file, tmp_path / "spool", is_bytes=False)
    assert corpus.characters == len(ACCENTS) * 200
    assert sum(pieces) == corpus.bytes and max(pieces) == 1 << 20


def test_text_with_an_invalid_byte_is_refused_with_advice() -> None:
    text = TEXT + "é\udce9 12"  # as open(…, errors="surrogateescape") reads it
    with pytest.raises(InvalidInput, match=r"'\\udce9'.*errors=\"replace\"") as caught:
        nextchar.train(text, preset="tiny", steps=2, progress=False)
    assert (caught.value.code, caught.value.param) == ("corpus_not_utf8", "text")


def test_prompts_of_a_masked_model_are_masked() -> None:
    text = "".join(f"took {i * 37} ms\n" for i in range(400))
    with nextchar.train(text, preset="tiny", steps=2, masks=["numbers"], progress=False) as model:
        assert set(model.characters) == set("took ⓝms\n")
        assert model.complete("took 12", seed=1) == model.complete("took 4711", seed=1)
        assert model.next("took 12") == model.next("took 4711")
        line = "é\udce9 12"  # with an invalid byte
        assert len(model.complete(line, max_characters=3)) == 3
        assert len(model.surprisal(line)) == len(line)
        assert len(model.score([line])) == 1


def test_a_pickled_model_gives_the_same_where_it_is_loaded_again(model: nextchar.Model) -> None:
    with pickle.loads(pickle.dumps(model)) as copy:  # noqa: S301
        assert copy.complete("the ", seed=7, max_characters=12) == model.complete(
            "the ", seed=7, max_characters=12
        )
        assert copy.score(["five boxing"]) == model.score(["five boxing"]) and copy.report == model.report


def test_a_model_without_a_mixture_predicts_with_its_network(model: nextchar.Model) -> None:
    options = {"preset": "tiny", "network": {"units": 32}, "budget": {"steps": 3}, "mixture": False}
    with nextchar.train(TEXT, name="foxes", progress=False, **options) as alone:
        assert set(model._saved.card.files) - set(alone._saved.card.files) == {"mixture.npz"}
        report = alone.report
        assert "network alone" not in repr(alone)
        assert set(report["experts"]) == {"lstm", "ngram"} and "mixture_weights" not in report
        assert report["validation_bits_per_character"] == report["experts"]["lstm"]
        assert report["experts"]["lstm"] == pytest.approx(model.report["experts"]["lstm"])
        assert np.array_equal(alone.surprisal("the quick"), alone.surprisal("the quick", expert="lstm"))
        assert alone.surprisal("the quick") == pytest.approx(model.surprisal("the quick", expert="lstm"))


WORDS = [f"{a}{b}{c}" for a in "abdefg" for b in "aeiou" for c in "klmnrst"]


@pytest.mark.parametrize(
    "text",
    ["\r\n".join(WORDS), "\n\n".join(WORDS), "same line\n" * 60, "\n".join(c * 3000 for c in "abc")],
    ids=["CRLF", "empty lines", "equal lines", "long lines"],
)
def test_records_of_every_form_are_trained_on(text: str) -> None:
    options = {"kind": "records", "budget": {"steps": 3}, "network": {"units": 8}}
    with nextchar.train(text, progress=False, **options) as trained:
        characters = trained.report["characters"]
        shuffled = sum(len(line) + 1 for line in text.split("\n") if line)
        assert characters["train"] + characters["validation"] == shuffled
        assert trained.next("a") == trained.next("\na")


def test_a_saved_folder_is_the_same_model(model: nextchar.Model, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "saved")
    with nextchar.load(folder) as again:
        assert np.array_equal(again.surprisal(TEXT[:60]), model.surprisal(TEXT[:60]))
        assert again.complete("the ", seed=3) == model.complete("the ", seed=3)
    with pytest.raises(FileExistsError, match="not empty"):
        model.save(folder)


def test_a_model_of_a_service_on_this_machine_is_loaded_by_name(
    model: nextchar.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = model._saved.card
    files = {name: model._saved.file(name) for name in card.files}
    Models(open_blobs((tmp_path / "store").as_uri())).publish(card, files)
    monkeypatch.setenv("NEXTCHAR_DATA_DIR", str(tmp_path))
    with nextchar.load("store:foxes") as loaded:
        assert loaded.complete("the ", seed=3) == model.complete("the ", seed=3)
    with pytest.raises(NotFound):
        nextchar.load("store:bears")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"xyz": 1}, "train: xyz: there is no such option"),
        ({"presett": "tiny"}, "train: presett: there is no such option; did you mean preset?"),
        (
            {"network": {"unit": 3}},
            "train: network.unit: there is no such field; did you mean network.units?",
        ),
        ({"batch_size": 8}, 'train: batch_size: there is no such option; did you mean training={"rows": …}?'),
        ({"seconds": 0}, "train: budget.seconds: must be at least 1, not 0"),
        (
            {"preset": "huge"},
            "train: preset: must be 'auto', 'tiny', 'small', 'medium' or 'large', not \"huge\"",
        ),
        ({"seconds": 5, "steps": 3}, "train: give at most one of seconds, epochs, steps and budget"),
        (
            {"epochs": 5, "budget": {"steps": 3}},
            "train: give at most one of seconds, epochs, steps and budget",
        ),
        ({"threads": 0}, "train: threads: must be at least 1, not 0"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_must_be(options: dict, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        nextchar.train(TEXT, progress=False, **options)
    assert refused.value.message == message


@pytest.mark.parametrize("option", ["corpus", "start_from", "mix"])
def test_options_that_name_what_a_service_has_are_refused(option: str) -> None:
    with pytest.raises(InvalidInput, match=f"use Client.train for {option}"):
        nextchar.train(TEXT, progress=False, **{option: "x"})


def test_a_short_text_starts_from_a_base_model_unless_that_is_refused() -> None:
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
    with nextchar.train(text, steps=1, progress=False) as near:
        card = near._saved.card
        assert (card.started_from, card.network) == ("base/english@1", BASE_RULE.network)
        assert "Z" in near.characters  # which the text does not have
        known = near.report["experts"]["lstm"]
    with nextchar.train(text, steps=1, base=False, progress=False) as far:
        assert far._saved.card.started_from is None
        assert far.report["experts"]["lstm"] > known + 1


def test_a_file_of_any_bytes_is_trained_on_in_steps(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\xff\x00ab" * 500)
    options = {"alphabet": "bytes", "preset": "tiny", "network": {"units": 32}, "steps": 3}
    with nextchar.train(tmp_path / "data", progress=False, **options) as trained:
        assert trained.report["steps"] == 3


def test_what_cannot_be_done_is_said_plainly(model: nextchar.Model, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"has no model\.json.*store:"):
        nextchar.load(tmp_path)
    with pytest.raises(InvalidInput, match="5 characters"):
        nextchar.train("short", progress=False)
    with pytest.raises(InvalidInput, match="wings"):
        model.complete("the ", wings=2)
    with pytest.raises(InvalidInput, match="temperature"):
        model.complete("the ", temperature=-1.0)
    with pytest.raises(AttributeError, match="no attribute 'loud'"):
        _ = nextchar.loud  # type: ignore[attr-defined]
