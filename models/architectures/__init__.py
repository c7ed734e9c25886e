"""The networks that can be trained, one file a family. The only part of `models` that imports Keras."""
