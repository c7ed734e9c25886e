"""The parameter count and the memory estimate."""

import pytest

from nextchar.models.architectures import NAMES, check_memory, count_parameters, estimate_training_bytes
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.errors import InvalidInput
from tests.models.architectures.networks import V, perturbed, small


@pytest.mark.parametrize("name", NAMES)
def test_the_parameter_count_is_that_of_the_built_network(name: str) -> None:
    network = perturbed(small(name))
    trained = sum(variable.numpy().size for variable in network.variables)
    # The Keras form of a normalization also has its mean and variance.
    moments = 0 if network.config.context else 2 * (network.config.embedding or 0)
    if network.config.coupled_gates:  # the weights of the input gate are those of the forget gate
        trained -= sum(v.numpy().size // 4 for v in network.variables if "lstm" in v.path)
    assert count_parameters(network.config, V) == trained + moments


def test_a_network_above_the_limit_is_an_error_with_the_estimate() -> None:
    network, training = NetworkConfig(units=4096, layers=8), TrainingConfig()
    needed = estimate_training_bytes(network, training, V)
    check_memory(network, training, V, needed)
    with pytest.raises(InvalidInput, match=f"about {needed / 2**30:.1f} GiB") as caught:
        check_memory(network, training, V, needed - 1)
    assert (caught.value.code, caught.value.param) == ("network_too_large", "network")


def test_the_estimate_grows_with_the_window() -> None:
    network = NetworkConfig()
    short, long = (estimate_training_bytes(network, TrainingConfig(window=w), V) for w in (32, 64))
    assert long > short
