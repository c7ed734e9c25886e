"""Makes what a trained model predicts with, a mixture or the network alone, and measures the experts."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.config import NetworkConfig
from nextchar.models.kernels.mixture_arguments import BY_NETWORK, KEY_CHARACTERS, STATE_COLUMNS, Experts
from nextchar.models.runtime import mixture
from nextchar.models.runtime.mixture import Floats, Learned, mix_logits
from nextchar.models.runtime.mixture_learning import LEARNED_CHARACTERS, Seen, learn_text, learned_by
from nextchar.models.runtime.model_networks import FLOAT32_FILE
from nextchar.models.runtime.session import Check, SharedNetwork, StepNetwork, open_network
from nextchar.models.text.ngram import NgramModel
from nextchar.worker.evaluation import bits_by_expert, graph_of, int8_file
from nextchar.worker.prepared_text import Ids, Text
from nextchar.worker.report import NGRAM_ORDERS

_WARM_UP_CHARACTERS = 2000  # read before each row of the held-out text
_MIN_ROW_CHARACTERS = 4096  # a mixture adapts to its row
_MAX_ROWS = 64
_LEARNED_PER_SECOND = 5000  # characters per second of training, of which a thread learns some 80,000
_CHECK_S = 0.1

EARLY_NETWORK = NetworkConfig(units=4, embedding=2)
"""The network of early models: the smallest."""


Reading = Future[tuple[Learned, Seen]]


def begin_reading(text: Text, *, is_records: bool, budget_s: float = 0) -> Reading:
    """Let a thread read the training text; return what will have its result.

    It learns from more of it if the network is trained meanwhile, for `budget_s` seconds.
    """
    thread = ThreadPoolExecutor(1, "mixture")
    known = text.train[-mixture.MAX_CHARACTERS :]
    characters = max(LEARNED_CHARACTERS, int(_LEARNED_PER_SECOND * budget_s))
    reading = thread.submit(learn_text, known, text.vocabulary, is_records=is_records, characters=characters)
    thread.shutdown(wait=False)
    return reading


def wait_for(reading: Reading, check: Check) -> Learned:
    """Return what was learned, once it was; `check` is called until then."""
    while not wait([reading], timeout=_CHECK_S).done:
        check()
    return reading.result()[0]


class EarlyExperts(NamedTuple):
    """What predicts before there is a network: the contexts, and in its place how often each character is.

    Attributes:
        graph: of the smallest network, whose logits are the logarithms of the characters' frequencies.
        learned: as a mixture has learned from the training text, without a network.
    """

    graph: bytes
    learned: Learned

    @classmethod
    def make(cls, text: Text, learned: Learned) -> "EarlyExperts":
        """Return those of a text. `learned` is copied, as it goes on learning."""
        frequencies = text.frequencies()
        network = KernelLSTM(EARLY_NETWORK, frequencies, seed=0)
        network.arrays["dense/kernel"][:] = 0
        network.arrays["dense/bias"][:] = np.log(frequencies + 1 / (1 + len(text.train)))
        own: Any = {name: array.copy() for name, array in learned._asdict().items()}
        own["weights"][:, BY_NETWORK] = 0
        return cls(graph_of(network), Learned(**own))

    def files(self, text: Text) -> dict[str, bytes]:
        """Return the files of a model that predicts with them."""
        name, data = int8_file(self.graph)
        known = text.before_test(mixture.MAX_CHARACTERS)
        return {FLOAT32_FILE: self.graph, name: data, mixture.FILE: mixture.dump(known, self.learned)}


@dataclass(frozen=True)
class Mixture:
    """The experts other than the network.

    Attributes:
        experts: with their weights; they know all text before `Text.test`. None: the network predicts alone.
        has_learned_weights: False if the held-out text is too short for that.
        files: the file of the model that holds them.
        early: what predicted before the network was trained, with the same known text.
    """

    experts: Experts | None = None
    has_learned_weights: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    early: EarlyExperts | None = None

    @classmethod
    def make(
        cls, network: StepNetwork, text: Text, reading: Reading, *, ready_early: bool = False
    ) -> "Mixture":
        """Return the mixture of a trained network, which learns to use it on `text.selection`.

        `reading` is what `begin_reading` returned. While it learns the mixture knows the training text alone;
        in the end it also knows the text that it learned on, which is more and newer text.
        """
        learned, seen = reading.result()
        early = EarlyExperts.make(text, learned) if ready_early else None
        if not text.is_undivided:
            experts = mixture.experts_of(
                text.train[-mixture.MAX_CHARACTERS :], mixture.without_adaptation(learned)
            )
            learn_network(network, experts, seen, text.selection, before=text.train)
            learned = learned_by(experts)._replace(adaptation=learned.adaptation)
        kept = text.before_test(mixture.MAX_CHARACTERS)
        experts = mixture.experts_of(kept, learned)
        return cls(experts, not text.is_undivided, {mixture.FILE: mixture.dump(kept, learned)}, early)

    def with_network(self, network: SharedNetwork) -> StepNetwork:
        """Return the mixture with a network, or the network alone."""
        return mixture.make_mixture(network, self.experts) if self.experts else network

    def bits(
        self, network: StepNetwork, text: Text, *, characters: int, by_expert: bool = True
    ) -> dict[str, float]:
        """Return the bits per character of the first `characters` of `text.test`, by each expert.

        `mixture` is the mixture, `lstm` the network, `ngram` n-grams, `without_adaptation` the mixture that
        does not adapt to what it reads, `early` the early model. Without experts there are only `lstm` and
        `ngram`; `without_adaptation` is left out if the mixture never adapts. Not `by_expert` there are only
        `mixture` and `lstm`.
        """
        mixtures: dict[str, Experts] = {"mixture": self.experts} if self.experts else {}
        if self.experts and by_expert and self.experts.adapts:
            mixtures["without_adaptation"] = mixture.without_adaptation(self.experts)
        ids, before = text.test[:characters], text.before_test(_WARM_UP_CHARACTERS)
        rows = rows_to_judge(len(ids))
        judge = partial(bits_by_expert, ids=ids, before=before, rows=rows, warm_up=_WARM_UP_CHARACTERS)
        bits = judge(network, mixtures)
        if self.experts and self.early and by_expert:
            experts = self.experts._replace(**self.early.learned._asdict())
            network_before = open_network(FLOAT32_FILE, self.early.graph)
            bits["early"] = judge(network_before, {"early": experts})["early"]
        if by_expert:
            known = text.before_test(mixture.MAX_CHARACTERS)
            ngrams = NgramModel.fit_ids(known, size=network.V, order=NGRAM_ORDERS)
            bits["ngram"] = float(ngrams.bits_by_order(ids, before=before)[-1])
        return bits


def rows_to_judge(characters: int) -> int:
    """Return how many parallel rows of held-out text the figures of the report are measured in."""
    return min(_MAX_ROWS, max(1, characters // _MIN_ROW_CHARACTERS))


_MAX_CHARACTERS = 60_000
_MAX_LOGITS = 1 << 25  # 128 MB
_MAX_SEEN = 4000.0  # of a set of weights: the network is new to those that have learned much
_SLICE_CHARACTERS = 256
_FIRST_WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the network, from which learning starts
_MAX_COMPARED = 10_000  # characters on which they are compared; from more, the weight is learned
_COMPARED_ROW = 1000


def learn_network(network: StepNetwork, experts: Experts, seen: Seen, ids: Ids, *, before: Ids) -> None:
    """Let the experts learn from held-out text, with the network as an input; they are changed.

    If it is short, too short for much learning, and the network alone predicts it better than they do, as one
    that comes from a base model, they begin with the weight of the network with which they predict it best.

    Args:
        network: the trained network.
        experts: they know the text `before`.
        seen: how often they have learned; changed.
        ids: (N,) held-out text; the beginning of a longer one is read.
        before: the text before it.
    """
    from nextchar.models.kernels.mixture_training import learn

    targets = np.ascontiguousarray(ids[: min(_MAX_CHARACTERS, _MAX_LOGITS // network.V)], np.int32)
    lead = np.ascontiguousarray(before[-KEY_CHARACTERS:], np.int32)
    logits = _logits(network, lead, targets)
    if len(ids) <= _MAX_COMPARED:
        _choose_first_weight(network, experts, ids[:], before)
    for counts in (seen.weights, seen.last_weights):
        np.minimum(counts, _MAX_SEEN, out=counts)
    state, not_behind = np.zeros((1, STATE_COLUMNS), np.float32), np.zeros((0, STATE_COLUMNS), np.float32)
    mix_logits(experts, lead[:, None], state, 0, len(lead), logits[:0, None])
    learn(*experts, *seen, targets, not_behind, state, logits, 0)


def _choose_first_weight(network: StepNetwork, experts: Experts, ids: NDArray[np.int32], before: Ids) -> None:
    candidates = {str(share): experts._replace(weights=experts.weights.copy()) for share in _FIRST_WEIGHTS}
    for share, candidate in zip(_FIRST_WEIGHTS, candidates.values(), strict=True):
        candidate.weights[:] *= (1 - share) / (1 - _FIRST_WEIGHTS[0])
        candidate.weights[:, BY_NETWORK] = share
    rows = max(1, len(ids) // _COMPARED_ROW)
    bits = bits_by_expert(network, candidates, ids, before=before, rows=rows)
    if bits["lstm"] < bits[str(_FIRST_WEIGHTS[0])]:
        del bits["lstm"]
        experts.weights[:] = candidates[min(bits, key=bits.__getitem__)].weights


def _logits(network: StepNetwork, lead: NDArray[np.int32], ids: NDArray[np.int32]) -> Floats:
    """Return the network's logits (N, V) for each of ids (N,), after the characters `lead`."""
    text = np.concatenate([lead, ids])[:-1, None]
    logits = np.empty((len(ids), network.V), np.float32)
    state = network.initial_state()
    first = len(lead) - 1  # the step whose logits are for ids[0]
    for at in range(0, len(text), _SLICE_CHARACTERS):
        piece = text[at : at + _SLICE_CHARACTERS]
        skipped = min(max(0, first - at), len(piece))
        part, state = network.step(piece, state, skipped)
        begin = at + skipped - first
        logits[begin : begin + len(part)] = part[:, 0]
    return logits
