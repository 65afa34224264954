"""Clients of AWS services, made by botocore alone: no task needs what boto3 adds to it."""

from functools import cache
from typing import Any

from botocore.config import Config
from botocore.session import get_session

one_session = cache(get_session)


@cache
def connect(service: str, *, connect_timeout: float = 0.1, read_timeout: float, attempts: int = 1) -> Any:
    """Return the client of a service whose calls are made at most `attempts` times, each within the timeouts (seconds).

    Whoever asks for the same client shares it, and its open connections.
    """
    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        parameter_validation=False,
        # botocore would compose its own for each call, a sixth of the call's CPU.
        user_agent="payment3-callback",
    )
    return one_session().create_client(service, config=config)
