"""The graph of window networks compared with a loop over windows."""

import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import window_graph
from nextchar.models.runtime.session import Network

V, H, C, B, T = 7, 5, 4, 3, 9


def weights(kind: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {"table": (V, H), "dense/kernel": (H, V), "dense/bias": (V,)}
    if kind == "recurrent":
        shapes |= {"recurrent/kernel": (H, H)}
    else:
        shapes |= {"hidden/kernel": (H, H), "hidden/bias": (H,)}
    return {name: random.normal(0, 0.5, shape).astype("f") for name, shape in shapes.items()}


def naive(w: dict[str, np.ndarray], window: list[int]) -> np.ndarray:
    """Return the logits after one window; zeros are skipped."""
    h = None
    for character in filter(None, window):
        x = w["table"][character]
        if "recurrent/kernel" in w:
            h = np.maximum(x + (0 if h is None else h @ w["recurrent/kernel"]), 0)
        else:
            h = x if h is None else x + np.tanh(h @ w["hidden/kernel"] + w["hidden/bias"])
    return (np.zeros(H) if h is None else h) @ w["dense/kernel"] + w["dense/bias"]


@pytest.mark.parametrize("kind", ["recurrent", "hidden"])
def test_the_graph_equals_a_loop_over_windows(kind: str) -> None:
    w = weights(kind)
    network = Network(window_graph(w, context=C))
    assert (network.S, network.V) == (C - 1, V)
    ids = np.random.default_rng(1).integers(0, V, (T, B)).astype(np.int32)  # zeros among them
    before = np.array([[0, 0, 0], [0, 0, 4], [1, 0, 3]], np.float32)
    logits, state = network.step(ids, before)
    text = np.concatenate([before.T.astype(np.int32), ids])
    for b in range(B):
        for t in range(T):
            np.testing.assert_allclose(logits[t, b], naive(w, text[t : t + C, b].tolist()), atol=1e-5)
    np.testing.assert_array_equal(state, text[1 - C :].T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dense/bias": None}, "cannot have the weights"),
        ({"hidden/kernel": np.zeros((H, H), "f")}, "cannot have the weights"),
        ({"recurrent/kernel": np.zeros((H, V), "f")}, r"weight recurrent/kernel has shape \(5, 7\)"),
    ],
)
def test_invalid_weights_are_an_error(change: dict[str, np.ndarray | None], message: str) -> None:
    w = {name: value for name, value in (weights("recurrent") | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        window_graph(w, context=C)
