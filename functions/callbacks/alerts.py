"""Keeps repeated failures of one kind from becoming as many mails."""

import time

from callbacks import config
from callbacks.failure import Failure
from callbacks.tables import Alert, bound, written
from callbacks.telemetry import logger

SECONDS_PER_MINUTE = 60
SECONDS_TO_KEEP = 90 * 24 * 60 * 60

WINDOW_SECONDS = int(config.required("ALERT_WINDOW_MINUTES")) * SECONDS_PER_MINUTE
# The mail needs the time that a second attempt would take.
Alerts = bound(Alert, config.required("ALERT_TABLE"), retries=0)


def open_window(failure: Failure) -> int | None:
    """Return how many failures of the kind were not mailed since its last mail, or None where this one is not to be.

    The first failure of a kind opens a window; those that follow until it ends are counted. A second attempt of the
    failure that opened the window is let through again. Where the count cannot be kept, nothing is held back: 0.
    """
    try:
        return _claim(_alert_of(failure), _opener(failure))
    except Exception as error:  # noqa: BLE001 - a broken guard must not silence anyone
        logger.warning("Alerts cannot be counted, the mail goes out", kind=failure.kind, error=type(error).__name__)
        return 0


def close_window(failure: Failure, summed_up: int) -> None:
    """Undo `open_window` for a mail that did not go out, so that the next failure of the kind is mailed."""
    try:
        _alert_of(failure).update(
            actions=[Alert.windowEndsAt.set(0), Alert.suppressed.set(Alert.suppressed + summed_up)],
            condition=Alert.openedBy == _opener(failure),
        )
    except Exception as error:  # noqa: BLE001 - what matters is the mail's own error
        logger.warning("The window stays open", kind=failure.kind, error=type(error).__name__)


def _claim(alert: Alert, opener: str) -> int | None:
    now = int(time.time())
    is_open = written(
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
    """Return what tells a failure from others: a healing execution may have many."""
    return f"{failure.execution_arn}#{failure.request_id}"


def _alert_of(failure: Failure) -> Alert:
    alert: Alert = Alerts("#".join(failure.kind))
    return alert
