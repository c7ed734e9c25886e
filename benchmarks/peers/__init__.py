"""Contestants: each module has a `prepare` that returns a Turn of `benchmarks.contestants`."""
