"""The settings of OpenAI's protocol."""

from pydantic import Field

from nextchar.app.core_settings import CoreSettings


class OpenAISettings(CoreSettings):
    """A part of `nextchar.app.settings.ApiSettings`."""

    batch_processing: bool = Field(
        True,
        description="Run the requests of batches in this process; 0: leave that to other API processes.",
    )
