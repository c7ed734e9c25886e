"""Protocols of other services, so that their clients work unchanged."""
