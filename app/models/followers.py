"""What other rooms keep of a model, and what happens to it when the model is deleted or renamed."""

import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from nextchar.models.errors import DomainError

log = logging.getLogger("nextchar.api")


class ModelFollowers(list[Callable[[str], object]]):
    """Functions that delete or move what belongs to a name without versions; each can be repeated."""

    def follow(self, name: str) -> None:
        """Call them for the name of a deleted or renamed version, now or at the next retention sweep."""
        for follow in self:
            try:
                follow(name)
            except (RedisError, DomainError) as error:
                log.warning("what belongs to the former model %s follows later: %s", name, error)
