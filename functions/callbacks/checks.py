"""What VerifySignature, CrossCheckPayment and InquirePayment share: a mode, a verdict and a log line."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from callbacks import model
from callbacks.deadline import Context
from callbacks.errors import ConfigurationError, Refusal, Unconfirmed
from callbacks.modes import Mode
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors
from callbacks.verdicts import FAILED, PASSED

type Perform = Callable[[dict[str, Any], Context], None]
type Handler = Callable[[dict[str, Any], Context], str]


def check(name: str) -> Callable[[Perform], Handler]:
    """Make a Lambda handler out of a function that raises if the check named `name` fails.

    The handler takes the check's own event, with `mode`, and returns the verdict: `passed`, or `failed: ` and why. In
    `enforce` it raises what the check raises, and ServiceUnavailable for AWS errors that pass. In `warn` it returns the
    failure: a check on trial must not stop a payment. Either mode logs it, because a metric counts it.
    Raises ConfigurationError for any other mode.
    """

    def decorate(perform: Perform) -> Handler:
        @wraps(perform)
        def handler(event: dict[str, Any], context: Context) -> str:
            mode = event["mode"]
            if mode not in set(Mode):
                raise ConfigurationError(f"{mode} is not a mode of {name}; use {', '.join(Mode)} or off.")
            try:
                with translate_transient_errors():
                    perform(event, context)
            except Exception as error:
                logger.warning("Check failed", check=name, mode=mode, error=type(error).__name__, **_ids_of(event))
                if mode == Mode.ENFORCE:
                    raise
                reason = f": {error}" if isinstance(error, Refusal | Unconfirmed) else ""
                return f"{FAILED}{type(error).__name__}{reason}"
            return PASSED

        return handler

    return decorate


def _ids_of(event: dict[str, Any]) -> dict[str, Any]:
    """Return the ids by which a log line is found; before validation only the request id is known."""
    if callback := event.get("callback"):
        return {name: callback[name] for name in ("orderId", "paymentId", "requestId")}
    return {"requestId": model.request_id(event["delivery"], event["executionName"])}
