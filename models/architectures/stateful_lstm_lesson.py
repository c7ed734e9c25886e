"""The first stateful network of the lecture notes: one LSTM over a batch-normalized embedding.

In the notes neither a stateful RNN nor a stateful LSTM learned without the batch normalization. It is
`stateful_lstm` in the sizes of the notes: embedding 42, 256 units, windows of 8.
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
    description="A stateful LSTM over a batch-normalized embedding, in windows of 8.",
    network=NetworkConfig(architecture="stateful_lstm_lesson", units=256, embedding=42),
    training=TrainingConfig(rows=32, window=8, learning_rate=5e-3, weight_decay=0.01),
    network_options=("units", "embedding", "dropout"),
    training_options=("rows", "window", "learning_rate", "weight_decay", "clip_norm"),
    build=StatefulLSTM,
    graph=graph,
    parameters=parameters,
    activation_floats_per_character=activation_floats_per_character,
    uses_kernels=True,
    can_load_weights=True,
    notes_nats=1.69,
    notes_measure="training loss after 12 epochs",
)
