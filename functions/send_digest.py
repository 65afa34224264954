"""SendDigest: tells operators once a day, and when they ask, which failures wait for them."""

from collections.abc import Iterator
from heapq import nsmallest
from typing import Any

from callbacks import config, deadline, emails, queues
from callbacks.deadline import Context
from callbacks.failure import REFUSED_AT_ONCE
from callbacks.queues import Lane
from callbacks.shown import show
from callbacks.tables import CallbackError, bind, read_while
from callbacks.transient import translate_transient_errors

HEADINGS = ("Order", "Charge", "Since", "Status", "Error", "Request")
# After a flood, the error log may hold more refused callbacks than can be read.
SECONDS_TO_SEND = 5

ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), retries=1)

# What anybody can cause is only counted: a stranger's callbacks must not hide the bank's.
IS_LISTED = {
    Lane.GIVEN_UP: CallbackError.lane != Lane.UNCONFIRMED,
    # A callback that is refused in a redrive was accepted before.
    Lane.OPERATOR: (CallbackError.attempts > 0) | ~CallbackError.error.is_in(*sorted(REFUSED_AT_ONCE)),
}


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Send an e-mail that lists what was given up and what waits for an operator, unless nothing does.

    It lists the oldest failures, by order, and says how many more there are. Takes `channel`.
    Returns `failures`, the number of those; `fromAnyone`, how many others there are, which anybody can have caused;
    `isComplete`, whether there was time to read all; and SES's `messageId`, or None if no e-mail was sent.
    Raises ServiceUnavailable.
    """
    digest = _Digest()
    with translate_transient_errors():
        oldest = nsmallest(emails.MAX_LINES, digest.read(event["channel"], context), key=lambda row: row.occurredAt)
        message_id = _send(event["channel"], oldest, digest) if oldest else None
    return {
        "failures": digest.failures,
        "fromAnyone": digest.from_anyone,
        "isComplete": digest.is_complete,
        "messageId": message_id,
    }


class _Digest:
    """What the error log holds, counted while it is read."""

    def __init__(self) -> None:
        self.failures = 0
        self.from_anyone = 0
        self.is_complete = True

    def read(self, channel: str, context: Context) -> Iterator[CallbackError]:
        """Yield the failures to list, and count them and the others."""

        def has_time() -> bool:
            return deadline.seconds_left(context) > SECONDS_TO_SEND

        for lane, is_listed in IS_LISTED.items():
            for queue in queues.queues_of(channel, lane):
                if not has_time():
                    self.is_complete = False
                    return
                rows = read_while(has_time, ErrorLog.unresolved.query(queue, filter_condition=is_listed))
                before = self.failures
                for row in rows:
                    self.failures += 1
                    yield row
                self.from_anyone += rows.page_iter.total_scanned_count - (self.failures - before)
                self.is_complete &= rows.last_evaluated_key is None


def _send(channel: str, oldest: list[CallbackError], digest: _Digest) -> str:
    since: dict[str | None, str] = {}
    for row in oldest:
        since.setdefault(row.orderId, row.occurredAt)
    by_order = sorted(oldest, key=lambda row: (since[row.orderId], row.orderId or "", row.occurredAt))
    introduction = (
        f"Waiting for an operator or given up: {digest.failures}. "
        f"Not listed, because anybody can have caused them: {digest.from_anyone}."
    )
    if not digest.is_complete:
        introduction += " There are more: the error log could not be read to its end."
    rows = [
        (show(row.orderId), show(row.chargeId), row.occurredAt, row.status, row.error, show(row.requestId))
        for row in by_order
    ]
    subject = f"{channel} callback: waiting for operators: {digest.failures}"
    return emails.send_list(subject, introduction, HEADINGS, rows, digest.failures)
