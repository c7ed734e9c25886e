"""The `nextchar` command."""
