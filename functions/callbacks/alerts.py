"""Limits e-mails to one per kind of failure and alert window, and counts the failures that are not e-mailed.

A partition key of DynamoDB takes 1,000 write units a second. At 1,000 failures of one kind a second,

- the item of the kind's window is written once per container and window, because a container remembers the window.
  Lambda starts at most 1,000 containers of a function in 10 seconds: 100 writes a second;
- each failure is counted by one write of 1 unit, in one of queues.SHARDS = 8 items: 125 writes a second and item.
"""

from collections import Counter

from callbacks import config, queues, windows
from callbacks.failure import Failure, Kind
from callbacks.tables import Alert, Suppressed, bind, try_update
from callbacks.telemetry import logger
from callbacks.windows import Window, Windows

SECONDS_TO_KEEP = 90 * 24 * 60 * 60

# The e-mail needs the rest of the function's time. One model for both sorts of items, because they share a table.
Alerts = bind(Suppressed, config.required("ALERT_TABLE"), read_timeout=0.2)

remembered = Windows()
# Failures whose count could not be written; the next one of their kind adds them.
uncounted: Counter[Kind] = Counter()


def open_window(failure: Failure) -> bool:
    """Return whether to e-mail this failure: it is if it opens a window, else it is counted, for ReportSuppressed.

    A retry of the failure that opened the window opens it again, unless this container has sent its e-mail. While the
    table is down, each container opens windows of its own.
    """
    opener = _opener(failure)
    window = remembered.find(failure.kind)
    if window is None:
        window = _claim(failure)
        remembered.remember(failure.kind, window)
        if window.opened_by == opener:
            return True
    elif window.opened_by == opener:
        return False
    _count(failure, window)
    return False


def close_window(failure: Failure) -> None:
    """Undo `open_window` after an e-mail failed, so that the next failure of the kind is e-mailed."""
    remembered.forget(failure.kind)
    try:
        _alert_of(failure).update(actions=[Alert.windowEndsAt.set(0)], condition=Alert.openedBy == _opener(failure))
    except Exception as error:  # noqa: BLE001 - the e-mail's own error matters more
        logger.warning("The window stays open", kind=failure.kind, error=type(error).__name__)


def _claim(failure: Failure) -> Window:
    """Return the open window of the failure's kind: the failure's own, if none was open or the table is down."""
    own = windows.begin(_opener(failure))
    alert = _alert_of(failure)
    try:
        is_opened = try_update(
            alert,
            [
                Alert.windowEndsAt.set(own.ends_at),
                Alert.openedBy.set(own.opened_by),
                Alert.expiration.set(own.ends_at + SECONDS_TO_KEEP),
            ],
            Alert.kind.does_not_exist() | (Alert.windowEndsAt <= windows.now()) | (Alert.openedBy == own.opened_by),
        )
        if is_opened:
            return own
        alert.refresh(consistent_read=True)
    except Exception as error:  # noqa: BLE001 - a broken guard must not silence anyone
        logger.warning("The alert table is down, the e-mail goes out", kind=failure.kind, error=type(error).__name__)
        return own
    return Window(int(alert.windowEndsAt), alert.openedBy)


def _count(failure: Failure, window: Window) -> None:
    """Count the failure, and those that could not be counted before."""
    failures = 1 + uncounted.pop(failure.kind, 0)
    shard = queues.shard_of(failure.channel, failure.request_id)
    try:
        Alerts("#".join([*failure.kind, str(window.ends_at), shard])).update(
            actions=[
                Suppressed.failures.add(failures),
                Suppressed.windowEndsAt.set(window.ends_at),
                Suppressed.channel.set(failure.channel),
                Suppressed.functionName.set(failure.function_name),
                Suppressed.step.set(failure.step),
                Suppressed.error.set(failure.error),
                Suppressed.since.set(Suppressed.since | failure.occurred_at),
                Suppressed.lastAt.set(failure.occurred_at),
                Suppressed.lastOrder.set(failure.order_id or "unknown"),
                Suppressed.lastRequest.set(failure.request_id),
                Suppressed.expiration.set(window.ends_at + SECONDS_TO_KEEP),
            ]
        )
    except Exception as error:  # noqa: BLE001 - the error log has the failure
        uncounted[failure.kind] = failures
        logger.warning("A failure is not counted yet", kind=failure.kind, error=type(error).__name__)


def _opener(failure: Failure) -> str:
    """Return what identifies one failure: a healing execution may report many, and a delivery may fail many times."""
    return f"{failure.execution_arn}#{failure.request_id}#{failure.occurred_at}"


def _alert_of(failure: Failure) -> Alert:
    alert: Alert = Alerts("#".join(failure.kind))
    return alert
