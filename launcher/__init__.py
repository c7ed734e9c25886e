"""Starts the whole service on one machine."""
