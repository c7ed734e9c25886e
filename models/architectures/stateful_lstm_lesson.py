"""The first stateful network of the lecture notes: one LSTM over a batch-normalized embedding.

In the notes neither a stateful RNN nor a stateful LSTM learned without the batch normalization. It is
`stateful_lstm` in the sizes of the notes: embedding 42, 256 units, windows of 8.
"""

from dataclasses import replace

from nextchar.models.architectures import stateful_lstm
from nextchar.models.config import NetworkConfig, TrainingConfig

ARCHITECTURE = replace(
    stateful_lstm.ARCHITECTURE,
    description="A stateful LSTM over a batch-normalized embedding, in windows of 8.",
    network=NetworkConfig(architecture="stateful_lstm_lesson", units=256, embedding=42),
    training=TrainingConfig(rows=32, window=8, learning_rate=5e-3, weight_decay=0.01),
    network_options=("units", "embedding", "dropout"),
    notes_nats=1.69,
    notes_measure="training loss after 12 epochs",
)
