"""A clock that tests set."""


class Clock:
    """Returns `now_s` when it is called, as `time.monotonic` does."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s
