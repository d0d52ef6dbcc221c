"""Every variable of the service, validated; nothing else reads the environment."""

from lifeguard.pool import PasswordAnswer
from lifeguard.settings.settings import LARGEST_BODY, Settings, SettingsError, env_example
from lifeguard.settings.values import Dsn

__all__ = ["LARGEST_BODY", "Dsn", "PasswordAnswer", "Settings", "SettingsError", "env_example"]
