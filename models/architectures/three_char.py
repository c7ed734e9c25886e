"""The first network of the lecture notes: predicts the fourth character from the three before it.

Each input is embedded and passes through the same dense layer; a shared hidden-to-hidden layer combines them
one after another. It is `nth_char` with a window of three.
"""

from dataclasses import replace

from nextchar.models.architectures import nth_char
from nextchar.models.config import NetworkConfig

ARCHITECTURE = replace(
    nth_char.ARCHITECTURE,
    description="Predicts from the last three characters by three dense layers that they share.",
    network=NetworkConfig(architecture="three_char", units=256, embedding=42, context=3),
    network_options=("units", "embedding"),
    notes_nats=2.0,
    notes_measure="training loss, about",
)
