"""The records that the API and the worker share: corpora, jobs, models. Knows no HTTP and no Keras."""
