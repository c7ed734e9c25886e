"""Compiled loops: recurrent steps for training and inference, and how they are compiled and cached."""
