"""Makes what a trained model predicts with, a mixture or the network alone, and measures the experts."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nextchar.models.kernels.mixture_arguments import Experts
from nextchar.models.runtime import mixture
from nextchar.models.runtime.mixture import Learned
from nextchar.models.runtime.mixture_learning import LEARNED_CHARACTERS, Seen, learn_text, learned_by
from nextchar.models.runtime.session import SharedNetwork, StepNetwork
from nextchar.models.text.ngram import NgramModel
from nextchar.worker.evaluation import bits_by_expert
from nextchar.worker.mixture_weights import learn_network
from nextchar.worker.prepared_text import Text
from nextchar.worker.report import NGRAM_ORDERS

_WARM_UP_CHARACTERS = 2000  # read before each row of the held-out text
_MIN_ROW_CHARACTERS = 4096  # a mixture adapts to its row
_MAX_ROWS = 64
_LEARNED_PER_SECOND = 5000  # characters per second of training, of which a thread learns some 80,000


def begin_reading(text: Text, *, is_records: bool, budget_s: float = 0) -> Callable[[], tuple[Learned, Seen]]:
    """Let a thread read the training text, while the network is trained; return what returns its result.

    It learns from more of it if there are more seconds for training; 0 if that is not known.
    """
    thread = ThreadPoolExecutor(1, "mixture")
    known = text.train[-mixture.MAX_CHARACTERS :]
    characters = max(LEARNED_CHARACTERS, int(_LEARNED_PER_SECOND * budget_s))
    reading = thread.submit(learn_text, known, text.vocabulary, is_records=is_records, characters=characters)
    thread.shutdown(wait=False)
    return reading.result


@dataclass(frozen=True)
class Mixture:
    """The experts other than the network.

    Attributes:
        experts: with their weights; they know all text before `Text.test`. None: the network predicts alone.
        has_learned_weights: False if the held-out text is too short for that.
        files: the file of the model that holds them.
    """

    experts: Experts | None = None
    has_learned_weights: bool = False
    files: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def make(cls, network: StepNetwork, text: Text, read: Callable[[], tuple[Learned, Seen]]) -> "Mixture":
        """Return the mixture of a trained network, which learns to use it on `text.selection`.

        `read` is what `begin_reading` returned. While it learns the mixture knows the training text alone; in
        the end it also knows the text that it learned on, which is more and newer text.
        """
        learned, seen = read()
        if not text.is_undivided:
            experts = mixture.experts_of(
                text.train[-mixture.MAX_CHARACTERS :], mixture.without_adaptation(learned)
            )
            learn_network(network, experts, seen, text.selection, before=text.train)
            learned = learned_by(experts)._replace(adaptation=learned.adaptation)
        kept = text.before_test(mixture.MAX_CHARACTERS)
        experts = mixture.experts_of(kept, learned)
        return cls(experts, not text.is_undivided, {mixture.FILE: mixture.dump(kept, learned)})

    def with_network(self, network: SharedNetwork) -> StepNetwork:
        """Return the mixture with a network, or the network alone."""
        return mixture.make_mixture(network, self.experts) if self.experts else network

    def bits(
        self, network: StepNetwork, text: Text, *, characters: int, by_expert: bool = True
    ) -> dict[str, float]:
        """Return the bits per character of the first `characters` of `text.test`, by each expert.

        `mixture` is the mixture, `lstm` the network, `ngram` n-grams, `without_adaptation` the mixture that
        does not adapt to what it reads. Without experts there are only `lstm` and `ngram`;
        `without_adaptation` is left out if the mixture never adapts. Not `by_expert` there are only `mixture`
        and `lstm`.
        """
        mixtures: dict[str, Experts] = {"mixture": self.experts} if self.experts else {}
        if self.experts and by_expert and self.experts.adapts:
            mixtures["without_adaptation"] = mixture.without_adaptation(self.experts)
        ids, before = text.test[:characters], text.before_test(_WARM_UP_CHARACTERS)
        rows = rows_to_judge(len(ids))
        bits = bits_by_expert(network, mixtures, ids, before=before, rows=rows, warm_up=_WARM_UP_CHARACTERS)
        if by_expert:
            known = text.before_test(mixture.MAX_CHARACTERS)
            ngrams = NgramModel.fit_ids(known, size=network.V, order=NGRAM_ORDERS)
            bits["ngram"] = float(ngrams.bits_by_order(ids, before=before)[-1])
        return bits


def rows_to_judge(characters: int) -> int:
    """Return how many parallel rows of held-out text the figures of the report are measured in."""
    return min(_MAX_ROWS, max(1, characters // _MIN_ROW_CHARACTERS))
