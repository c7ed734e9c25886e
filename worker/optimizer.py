"""The settings of AdamW, which every training step uses (Loshchilov and Hutter 2019)."""

BETA_1 = 0.9
BETA_2 = 0.99
EPSILON = 1e-8
NOT_DECAYED = ("bias", "gamma", "beta", "embedding")
"""Weights with one of these words in their names are not decayed."""
