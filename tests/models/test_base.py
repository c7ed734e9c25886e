"""The base models of the package: their files, their names and the list of their texts."""

import tomllib

import numpy as np
import pytest

from nextchar.models.auto_preset import BASE_RULE
from nextchar.models.base import BASES_FOLDER, BaseModel, base_references, dump_base, find_base, load_base
from nextchar.models.config import NetworkConfig
from nextchar.models.errors import NotFound
from nextchar.models.kernels.lstm_weights import with_input_gate

SOURCES = tomllib.loads((BASES_FOLDER / "sources.toml").read_text())
PERMISSIVE = {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "Unlicense"}


@pytest.mark.parametrize("reference", base_references())
def test_a_base_model_is_small_and_its_texts_are_listed_with_a_license(reference: str) -> None:
    base = find_base(reference)
    assert (BASES_FOLDER / f"{base.name}.npz").stat().st_size <= 4 << 20
    assert base.network == BASE_RULE.network
    assert base.weights["embedding"].shape == (len(base.characters) + 1, 64)
    for text in SOURCES[base.name]["texts"]:
        assert len(text["commit"]) == 40
        assert text["license"].startswith("public domain") or set(text["license"].split(" OR ")) <= PERMISSIVE


def test_a_file_of_a_base_model_holds_its_weights_in_eight_bits() -> None:
    random = np.random.default_rng(1)
    network = NetworkConfig(units=8, embedding=4, coupled_gates=True)
    weights = {
        "embedding": random.normal(size=(4, 4)).astype(np.float32),
        "lstm_0/recurrent": with_input_gate(random.normal(size=(8, 24)).astype(np.float32)),
        "lstm_0/bias": with_input_gate(random.normal(size=24).astype(np.float32)),
    }
    data = dump_base(BaseModel("small", "abc", network, weights))
    loaded = load_base(data, "small")
    assert (loaded.characters, loaded.network) == ("abc", network)
    assert set(loaded.weights) == set(weights)
    for name, array in weights.items():
        step = np.abs(array).max(axis=0) / 127 if array.ndim == 2 else 0
        assert (np.abs(loaded.weights[name] - array) <= 0.51 * step).all()


def test_a_base_model_is_found_with_and_without_its_version() -> None:
    assert find_base("base/english").card.reference == find_base("base/english@1").card.reference
    for unknown in ("base/klingon", "base/english@7", "base/", "base/../english"):
        with pytest.raises(NotFound, match=r"there is no base model .*base/english@1") as caught:
            find_base(unknown)
        assert caught.value.code == "base_not_found"
