"""Records prompts of completions for shadow runs, if a setting says so: noted in memory, stored by a loop.

Someone who types sends each prefix of what they type. Of prompts that extend each other the longest is kept.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nextchar.store.recorded_prompts import RecordedPrompts

MAX_CHARACTERS = 1_000
"""Maximum length of a recorded prompt; only its end is recorded."""

MAX_COMPARED_CHARACTERS = 20_000
"""Maximum length of a prompt that is compared with others; only its end is compared."""

_COMPARED_PROMPTS = (
    32  # prompts of a model that a new one may extend: those of clients that type at the same time
)


@dataclass
class PromptRecorder:
    """Notes prompts and stores them. Safe to use from several threads.

    `is_listed` returns whether there is a model with a name. The prompts of a model that is deleted before
    they are stored are deleted, too.
    """

    prompts: RecordedPrompts
    is_listed: Callable[[str], bool]
    _noted: dict[str, deque[str]] = field(default_factory=dict)  # by model name, oldest first
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, model: str, prompt: str) -> None:
        """Note a prompt of the model `name@version`, of at most MAX_COMPARED_CHARACTERS."""
        if not prompt:
            return
        with self._lock:
            noted = self._noted.setdefault(model.partition("@")[0], deque(maxlen=self.prompts.limit))
            for i in range(len(noted) - 1, max(-1, len(noted) - 1 - _COMPARED_PROMPTS), -1):
                if prompt.startswith(noted[i]):
                    noted[i] = prompt
                    return
                if noted[i].startswith(prompt):
                    return
            noted.append(prompt)

    def store(self) -> None:
        """Store what was noted. Raises RedisError or Unavailable; what was not stored is lost then."""
        with self._lock:
            noted, self._noted = self._noted, {}
        for model, prompts in noted.items():
            self.prompts.add(model, [prompt[-MAX_CHARACTERS:] for prompt in prompts])
            if not self.is_listed(model):  # checked last: a later deletion of the model deletes them, too
                self.prompts.delete(model)
