"""Starts the whole of nextchar on one machine. Knows the other parts only as commands to run."""
