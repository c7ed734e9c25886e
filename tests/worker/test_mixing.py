import numpy as np
import pytest

from nextchar.models.config import Budget, Mix, NetworkConfig, TrainingConfig
from nextchar.models.errors import InvalidInput
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.worker.checkpoints import Checkpoint
from nextchar.worker.hooks import Hooks
from nextchar.worker.mixing import MixedRows, SecondText, Teacher
from nextchar.worker.prepared_text import Text, covering_characters, read_ids
from nextchar.worker.rows import Rows
from nextchar.worker.training import fit

STUDENT, TEACHER = Vocabulary("abcd"), Vocabulary("bcdz")


class NextLetter:
    """Expects b after a, c after b and so on, surely; its state counts what it has read in each row."""

    V = len(TEACHER)

    def initial_state(self, rows=1):
        return np.zeros((rows, 1), np.float32)

    def step(self, ids, state, first=0):
        logits = np.full((*ids.shape, self.V), -5, np.float32)
        for t, b in np.ndindex(*ids.shape):
            logits[t, b, (ids[t, b] % 3) + 1] = 5  # b -> c -> d -> b among the teacher's own ids
        return logits[first:], state + len(ids)


def teacher(targets, seed=1):
    return Teacher(NextLetter(), TEACHER, student=STUDENT, targets=targets, rows=2, seed=seed)


def letters(ids):
    return [STUDENT.decode(column) for column in ids.T]


def test_rows_of_both_texts_keep_their_order_and_restart_independently():
    mixed = MixedRows(
        Rows.cut(np.arange(17), rows=2, window=2), Rows.cut(100 + np.arange(5), rows=1, window=2)
    )
    assert (mixed.rows, mixed.window, mixed.windows_per_epoch) == (3, 2, 4)
    assert [mixed.window_at(epoch=0, index=k)[0].tolist() for k in range(3)] == [
        [[0, 8, 102], [1, 9, 103]],
        [[2, 10, 100], [3, 11, 101]],
        [[4, 12, 102], [5, 13, 103]],
    ]
    begins = [
        list(mixed.starting_rows(epoch=e, index=k)) for e, k in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    ]
    assert begins == [[slice(0, 2)], [slice(2, 3)], [], [slice(2, 3)], [slice(0, 2)]]


@pytest.mark.parametrize("fraction", [0.2, 0.34, 0.5, 0.67, 0.8])
def test_a_text_mixed_with_itself_is_nowhere_read_twice_at_a_time(fraction):
    ids = np.arange(2000)
    text = Text(STUDENT, ids, ids[:9], "")
    mixed = SecondText(ids, fraction, "text").mix_into(text, rows=12, window=8, seed=1)
    for k in range(mixed.windows_per_epoch):
        inputs, _ = mixed.window_at(epoch=0, index=k)
        assert len(np.unique(inputs)) == inputs.size


@pytest.mark.parametrize("targets", ["argmax", "sampled"])
def test_labels_are_the_teachers_in_the_students_ids(targets):
    ids = STUDENT.encode("bcdbcd").reshape(3, 2)
    labels = teacher(targets).targets(ids, is_start=True, window_number=0)
    assert labels.dtype == np.int32
    assert letters(labels) == letters(STUDENT.encode("cdbcdb").reshape(3, 2))


def test_a_distribution_sums_to_one_without_unknown_characters():
    full = teacher("distribution").targets(
        STUDENT.encode("bcdb").reshape(2, 2), is_start=True, window_number=0
    )
    assert full.shape == (2, 2, len(STUDENT))
    np.testing.assert_allclose(full.sum(-1), 1, rtol=1e-6)
    assert not full[:, :, [0, 1]].any()  # id 0 and the letter a


def test_draws_depend_only_on_the_seed_and_the_window():
    class Unsure(NextLetter):
        def step(self, ids, state, first=0):
            return np.zeros((*ids.shape, self.V), np.float32)[first:], state

    def draw(seed, at):
        drawn = Teacher(Unsure(), TEACHER, student=STUDENT, targets="sampled", rows=2, seed=seed)
        return drawn.targets(np.ones((40, 2), np.int32), is_start=False, window_number=at)

    np.testing.assert_array_equal(draw(1, 3), draw(1, 3))
    assert (draw(1, 3) != draw(1, 4)).any()
    assert (draw(1, 3) != draw(2, 3)).any()
    assert set(np.unique(draw(1, 3))) == {2, 3, 4}


def test_the_teachers_state_continues_restarts_and_is_restored():
    one, ids = teacher("argmax"), np.ones((3, 2), np.int32)
    one.targets(ids, is_start=True, window_number=0)
    one.targets(ids, is_start=False, window_number=1)
    kept = one.arrays()
    one.targets(ids, is_start=False, window_number=2)
    other = teacher("argmax")
    other.restore(kept)
    other.targets(ids, is_start=False, window_number=2)
    assert one.arrays()["mix/teacher_state"].tolist() == [[9], [9]]
    np.testing.assert_array_equal(*(t.arrays()["mix/teacher_state"] for t in (one, other)))
    one.targets(ids, is_start=True, window_number=3)
    assert one.arrays()["mix/teacher_state"].tolist() == [[3], [3]]


def test_a_teacher_of_other_letters_is_refused():
    with pytest.raises(InvalidInput, match="knows no character") as caught:
        Teacher(NextLetter(), TEACHER, student=Vocabulary("xy"), targets="argmax", rows=1, seed=1)
    assert caught.value.param == "mix.teacher"


def test_a_second_text_without_room_for_its_rows_is_refused():
    text = Text.split("abcd" * 200, validation_fraction=0.1)
    with pytest.raises(InvalidInput, match="cannot be filled"):
        SecondText(np.arange(9), 0.5, "text").mix_into(text, rows=8, window=4, seed=1)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"teacher": "m@1", "targets": "text"}, "use no teacher"),
        ({"targets": "argmax"}, "need a `teacher`"),
        ({"fraction": 0}, "greater than 0"),
        ({"fraction": 1}, "less than 1"),
        ({"teacher": "m@1", "targets": "oracle"}, "sampled"),
    ],
)
def test_contradictions_are_refused(given, wrong):
    with pytest.raises(ValueError, match=wrong):
        Mix(corpus="c", **given)


def test_with_a_teacher_its_distribution_is_the_default():
    assert Mix(corpus="c", teacher="m@1").targets == "distribution"
    assert Mix(corpus="c").targets == "text"


NETWORK = NetworkConfig(units=8, embedding=4)
OWN, OTHER = "the cat sat on the mat. " * 30, "dogs and cats and mats. " * 30


def train(second, *, resume=None, hooks=None, steps=12):
    text = Text.split(OWN, validation_fraction=0.1, required=covering_characters([OTHER]))
    recipe = TrainingConfig(rows=4, window=8, budget=Budget(steps=steps), weight_decay=0)
    ids = read_ids([OTHER], text.vocabulary)
    return fit(NETWORK, recipe, text, cores=2, second=second(ids), resume=resume, hooks=hooks)


def taught(targets):
    vocabulary = Vocabulary(OTHER)

    class Even(NextLetter):
        V = len(vocabulary)

        def step(self, ids, state, first=0):
            logits = np.zeros((*ids.shape, self.V), np.float32) + state[None] * np.arange(
                self.V, dtype=np.float32
            )
            return logits[first:], state * 0.5 + ids[-1:].T % 3

    return lambda ids: SecondText(ids, 0.25, targets, Even(), vocabulary)


@pytest.mark.parametrize("targets", ["sampled", "distribution"])
def test_a_mixed_run_that_is_resumed_ends_with_the_same_bits(targets):
    kept: list[Checkpoint] = []

    def stop():
        return "pause" if len(kept) and kept[-1].step >= 5 else None

    whole = train(taught(targets))
    train(taught(targets), hooks=Hooks(checkpoint=kept.append, stop=stop, checkpoint_every_s=0))
    resumed = train(taught(targets), resume=kept[-1])
    assert 5 <= kept[-1].step < 12
    for a, b in zip(whole.network.variables, resumed.network.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_second_text_is_learned_from():
    only = Text.split(OTHER, validation_fraction=0.9)
    alone = train(lambda _: None, steps=150)
    mixed = train(lambda ids: SecondText(ids, 0.5, "text"), steps=150)
    assert mixed.rows.rows == 4

    def bits(result):
        from nextchar.models.runtime.session import Network
        from nextchar.worker.evaluation import bits_per_character, graph_of

        known = Text.split(OWN, validation_fraction=0.1, required=covering_characters([OTHER])).vocabulary
        ids = known.encode(only.vocabulary.decode(only.validation))
        return bits_per_character(Network(graph_of(result.network)), ids, before=ids[:50], warm_up=10)

    assert bits(mixed) < bits(alone) - 1
