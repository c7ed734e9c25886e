"""Random programs of readers that share a small state cache, against a dictionary of what they inserted."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nextchar.models.runtime.state_cache import CHUNK, OVERHEAD_BYTES, STRIDE, PrefixMatch, StateCache, _Node
from tests.models.runtime.test_state_cache import document, state_of
from tests.state_machines import run

LIMIT_BYTES = 12 * (OVERHEAD_BYTES + 4 * CHUNK)
BASE = document(2 * STRIDE + 3 * CHUNK)


class StateCacheMachine(RuleBasedStateMachine):
    """Some readers each read a text piece by piece, and insert while others make the cache evict."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = StateCache(LIMIT_BYTES)
        self.readers: list[tuple[PrefixMatch, str, int]] = []  # their match, text, and characters read
        self.owner_of: dict[PrefixMatch, str] = {}
        self.inserted: set[tuple[str, str]] = set()  # owner and text

    @rule(
        owner=st.sampled_from("xy"), length=st.integers(0, len(BASE)), tail=st.text("ab", max_size=2 * CHUNK)
    )
    def begin(self, owner: str, length: int, tail: str) -> None:
        text = BASE[:length] + tail
        match = self.cache.match(text, owner)
        self.owner_of[match] = owner
        self._is_right(match, text)
        self.readers = [*self.readers[-3:], (match, text, match.length)]

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), chunks=st.integers(1, STRIDE // CHUNK), to_end=st.booleans())
    def read_on(self, data: st.DataObject, chunks: int, to_end: bool) -> None:
        index = data.draw(st.integers(0, len(self.readers) - 1))
        match, text, read = self.readers[index]
        for _ in range(chunks):
            at = min(len(text), (read // CHUNK + 1) * CHUNK)
            if at == read or (at % CHUNK and not to_end):
                break
            self.cache.insert(match, text, at, state_of(text[:at]))
            self.inserted.add((self.owner_of[match], text[:at]))
            read = at
        self.readers[index] = (match, text, read)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def insert_a_stride_alone(self, data: st.DataObject) -> None:
        """As prefill of a long document does: nothing but strides."""
        match, text, _ = data.draw(st.sampled_from(self.readers))
        for at in range(STRIDE, len(text) + 1, STRIDE):
            self.cache.insert(match, text, at, state_of(text[:at]))
            self.inserted.add((self.owner_of[match], text[:at]))

    @rule()
    def clear(self) -> None:
        self.cache.clear()

    def _is_right(self, match: PrefixMatch, text: str) -> None:
        own = [one for owner, one in self.inserted if owner == self.owner_of[match] and text.startswith(one)]
        assert match.length <= max(map(len, own), default=0)
        if match.length == 0:
            assert match.state is None
        else:
            assert match.state is not None
            assert match.state.tolist() == state_of(text[: match.length]).tolist()

    @invariant()
    def counters_and_leaves_are_those_of_the_tree(self) -> None:
        nodes: list[_Node] = []
        roots = list(self.cache._roots.values())
        assert all(root.children and self.cache._roots[root.text] is root for root in roots)
        waiting = roots[:]
        while waiting:
            node = waiting.pop()
            waiting += node.children.values()
            nodes += node.children.values()
        assert self.cache.entries == len(nodes)
        assert self.cache.bytes == sum(node.cost_bytes for node in nodes) <= LIMIT_BYTES
        assert set(self.cache._leaves) == {node for node in nodes if not node.children}
        assert all(node.alive for node in nodes)
        for node in (*nodes, *roots):
            assert node.latest is None or node.latest in node.children.values()


def test_the_state_cache_is_as_a_dictionary_says() -> None:
    run(StateCacheMachine, examples=40)
