"""The calls of the API that are one request, a list, a download or a streamed completion, by resource.

All raise the exceptions of `nextchar.errors`.
"""
