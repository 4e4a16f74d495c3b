"""Errors of configuration: always the operator's to fix, always one line."""


class ConfigError(ValueError):
    """The server cannot start with what it was given. The message is complete: it is printed as it stands."""


class InvalidConfiguration(ConfigError):
    """A value no server can run with."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Invalid configuration: {reason}")
