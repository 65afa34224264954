"""The environment of the task functions, read here and nowhere else."""

import os

from callbacks.errors import ConfigurationError


def required(name: str) -> str:
    """Return the environment variable `name`.

    Raises ConfigurationError where it is missing or empty, so that a function deployed without it fails at its start.
    """
    value = os.environ.get(name, "")
    if not value:
        raise ConfigurationError(f"The environment variable {name} is not set.")
    return value


def optional(name: str) -> str | None:
    """Return the environment variable `name`, or None where it is missing or empty."""
    return os.environ.get(name) or None
