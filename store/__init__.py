"""The records that the API and the worker share: corpora, jobs, models."""
