"""All settings of the API: of the core, and of each room that has its own."""

from nextchar.app.acceptance.configuration import AcceptanceSettings
from nextchar.app.logs.configuration import LogSettings


class ApiSettings(LogSettings, AcceptanceSettings):
    """Read from the environment by `load`; pass values by keyword in tests."""
