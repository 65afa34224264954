"""The only place that reads the tasks' environment."""

import os

from callbacks.errors import ConfigurationError


def required(name: str) -> str:
    """Return the environment variable `name`.

    Raises ConfigurationError if it is missing or empty, so that a misconfigured function fails when it starts.
    """
    value = os.environ.get(name, "")
    if not value:
        raise ConfigurationError(f"The environment variable {name} is not set.")
    return value


def optional(name: str) -> str | None:
    """Return the environment variable `name`, or None if it is missing or empty."""
    return os.environ.get(name) or None
