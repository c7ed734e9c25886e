"""The first network of the lecture notes: predicts the fourth character from the three before it.

Each input is embedded and passes through the same dense layer; a shared hidden-to-hidden layer combines them
one after another. It is `nth_char` with a window of three.
"""

from models.architectures.nth_char import NthChar, parameters
from models.architectures.spec import Architecture
from models.architectures.window import activation_floats_per_character, graph
from models.config import NetworkConfig, TrainingConfig

ARCHITECTURE = Architecture(
    description="Predicts from the last three characters by three dense layers that they share.",
    network=NetworkConfig(architecture="three_char", units=256, embedding=42, context=3),
    training=TrainingConfig(rows=32, window=8, learning_rate=2e-3, weight_decay=0.0),
    network_options=("units", "embedding"),
    training_options=("rows", "window", "learning_rate", "weight_decay", "clip_norm"),
    build=NthChar,
    graph=graph,
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    notes_nats=2.0,
    notes_measure="training loss, about",
)
