"""Limits e-mails to one per kind of failure and alert window."""

import time

from callbacks import config
from callbacks.failure import Failure
from callbacks.tables import Alert, bind, try_write
from callbacks.telemetry import logger

SECONDS_PER_MINUTE = 60
SECONDS_TO_KEEP = 90 * 24 * 60 * 60

WINDOW_SECONDS = int(config.required("ALERT_WINDOW_MINUTES")) * SECONDS_PER_MINUTE
# The e-mail needs the rest of the function's time.
Alerts = bind(Alert, config.required("ALERT_TABLE"), read_timeout=0.2)


def open_window(failure: Failure) -> int | None:
    """Return how many failures of this kind were suppressed since its last e-mail, or None to suppress this one too.

    The first failure of a kind opens a window, and the failures until its end are only counted. A retry for the failure
    that opened the window is not suppressed. If the count is unavailable, the e-mail goes out anyway: 0.
    """
    try:
        return _claim(_alert_of(failure), _opener(failure))
    except Exception as error:  # noqa: BLE001 - a broken guard must not silence anyone
        logger.warning("Alerts cannot be counted, the e-mail goes out", kind=failure.kind, error=type(error).__name__)
        return 0


def close_window(failure: Failure, summed_up: int) -> None:
    """Undo `open_window` after an e-mail failed, so that the next failure of the kind is e-mailed."""
    try:
        _alert_of(failure).update(
            actions=[Alert.windowEndsAt.set(0), Alert.suppressed.set(Alert.suppressed + summed_up)],
            condition=Alert.openedBy == _opener(failure),
        )
    except Exception as error:  # noqa: BLE001 - the e-mail's own error matters more
        logger.warning("The window stays open", kind=failure.kind, error=type(error).__name__)


def _claim(alert: Alert, opener: str) -> int | None:
    now = int(time.time())
    is_open = try_write(
        lambda: alert.update(
            actions=[
                Alert.windowEndsAt.set(now + WINDOW_SECONDS),
                Alert.openedBy.set(opener),
                Alert.summedUp.set(Alert.suppressed | 0),
                Alert.suppressed.set(0),
                Alert.expiration.set(now + WINDOW_SECONDS + SECONDS_TO_KEEP),
            ],
            condition=Alert.kind.does_not_exist() | (Alert.windowEndsAt <= now) | (Alert.openedBy == opener),
        )
    )
    if is_open:
        return int(alert.summedUp)
    alert.update(actions=[Alert.suppressed.add(1)])
    return None


def _opener(failure: Failure) -> str:
    """Return what identifies one failure: a healing execution may report many, and a delivery may fail many times."""
    return f"{failure.execution_arn}#{failure.request_id}#{failure.occurred_at}"


def _alert_of(failure: Failure) -> Alert:
    alert: Alert = Alerts("#".join(failure.kind))
    return alert
