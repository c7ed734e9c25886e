"""The first stateful network of the notes that learned: one LSTM over a normalised embedding.

They could not train a plain RNN whose state goes on for ever, nor an LSTM, until the embedding was batch
normalised. It is the network of `stateful_lstm` in their sizes: embedding 42, 256 units, windows of 8.
"""

from models.architectures.spec import Architecture
from models.architectures.stateful_lstm import (
    StatefulLSTM,
    activation_floats_per_character,
    graph,
    parameters,
)
from models.config import NetworkConfig, TrainingConfig

ARCHITECTURE = Architecture(
    description="An LSTM whose state goes on from window to window of 8, after a batch-normalised embedding.",
    network=NetworkConfig(architecture="stateful_lstm_lesson", units=256, embedding=42),
    training=TrainingConfig(rows=32, window=8, learning_rate=5e-3, weight_decay=0.01),
    network_options=("units", "embedding", "dropout"),
    training_options=("rows", "window", "learning_rate", "weight_decay", "clip_norm"),
    build=StatefulLSTM,
    graph=graph,
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    own_kernels=True,
    loads_weights=True,
    notes_nats=1.69,
    notes_measure="training loss after 12 epochs",
)
