"""What the checks of a callback have in common: a mode, and a verdict that the record keeps."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from callbacks.errors import ConfigurationError, Refusal, Unconfirmed
from callbacks.telemetry import logger

PASSED = {"passed": True, "note": "passed"}


class Mode(StrEnum):
    """Whether a check that fails is only noted, or refuses the callback. A check that is off is not run at all."""

    WARN = "warn"
    ENFORCE = "enforce"


def ids_of(callback: dict[str, Any]) -> dict[str, str]:
    """Return what a log may say of a callback: the ids by which it is found, and nobody's data."""
    return {name: callback[name] for name in ("orderId", "paymentId", "requestId")}


def carry_out(check: str, mode: str, perform: Callable[[], None], **ids: Any) -> dict[str, Any]:
    """Run a check and return its verdict: `passed`, and `note` for the record.

    In `enforce` whatever `perform` raises is raised. In `warn` it is logged, which counts it, and noted: a check that
    is being tried out must not stop a payment. Raises ConfigurationError for another mode.
    """
    if mode not in set(Mode):
        raise ConfigurationError(f"{mode} is not a mode of {check}; there are {', '.join(Mode)} and off.")
    try:
        perform()
    except Exception as error:
        logger.warning("Check failed", check=check, mode=mode, error=type(error).__name__, **ids)
        if mode == Mode.ENFORCE:
            raise
        reason = f": {error}" if isinstance(error, Refusal | Unconfirmed) else ""
        return {"passed": False, "note": f"{type(error).__name__}{reason}"}
    return PASSED
