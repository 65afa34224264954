"""ReportSuppressed: tells operators how many failures were not reported in the alert windows that have ended."""

import time
from dataclasses import dataclass
from typing import Any

from pynamodb.expressions.update import Action

from callbacks import config, emails, sentry
from callbacks.failure import Kind
from callbacks.shown import show
from callbacks.tables import Suppressed, bind, try_update, try_write
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors

INTRODUCTION = "These failures were not reported one by one, because an earlier one of their kind was."
# Each is written twice; the next run takes the rest.
MAX_COUNTS = 200
HEADINGS = ("Error", "Step", "Failures", "Since", "Last", "Order", "Request")

Counts = bind(Suppressed, config.required("ALERT_TABLE"), retries=1)


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts of one kind that a report has not told yet, and how many failures they add up to."""

    kind: Kind
    failures: int
    counts: list[Suppressed]

    @property
    def since(self) -> str:
        """When the first of the failures happened."""
        return min(count.since for count in self.counts)

    @property
    def last(self) -> Suppressed:
        """The count that has the last of the failures."""
        return max(self.counts, key=lambda count: count.lastAt)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Send the counts of the windows that have ended: one e-mail for all kinds, and a Sentry event for each.

    Takes `channel`. Returns `failures`: how many were counted. A report that fails does not hold up the other one, and
    is made again by the next run. Raises ServiceUnavailable, and what else made a report fail.
    """
    failed = None
    with translate_transient_errors():
        counts = _read(event["channel"])
        for report in (_email, _send_to_sentry):
            try:
                report(counts)
            except Exception as error:  # noqa: BLE001 - raised in the end
                logger.warning("Counts are not reported yet", report=report.__name__, error=type(error).__name__)
                failed = error
            # At once: if the process dies during the other report, this one is not made again.
            for count in counts:
                _save(count)
        if failed:
            raise failed
    return {"failures": int(sum(count.failures for count in counts))}


def _read(channel: str) -> list[Suppressed]:
    """Return the counts of windows that have ended."""
    is_ended = Suppressed.failures.exists() & (Suppressed.windowEndsAt <= int(time.time()))
    # A scan, because the table holds a few items for each kind of failure, and the kinds are limited.
    return list(Counts.scan(is_ended & (Suppressed.channel == channel), limit=MAX_COUNTS, consistent_read=True))


def _email(counts: list[Suppressed]) -> None:
    summaries = _summaries(counts, "emailed")
    if not summaries:
        return
    total = sum(summary.failures for summary in summaries)
    rows = [_row(summary) for summary in summaries]
    emails.send_list(f"{counts[0].channel} callback: {total} more failed", INTRODUCTION, HEADINGS, rows, len(rows))
    for count in counts:
        count.emailed = count.failures


def _row(summary: Summary) -> tuple[str, ...]:
    _, step, error = summary.kind
    last = summary.last
    return (
        error,
        step,
        f"{summary.failures} more",
        summary.since,
        last.lastAt,
        show(last.lastOrder),
        show(last.lastRequest),
    )


def _send_to_sentry(counts: list[Suppressed]) -> None:
    for summary in _summaries(counts, "sentToSentry"):
        last = summary.last
        if sentry.dsn:
            sentry.send(
                summary.kind,
                f"{summary.failures} more since {summary.since}, the last one at {last.lastAt}",
                tags={"orderId": show(last.lastOrder)},
                contexts={"execution": {"requestId": show(last.lastRequest)}},
            )
        for count in summary.counts:
            count.sentToSentry = count.failures


def _summaries(counts: list[Suppressed], told: str) -> list[Summary]:
    """Return the sums by kind of what a report has not told yet; `told` is the attribute that says so."""
    by_kind: dict[Kind, list[Suppressed]] = {}
    for count in counts:
        if count.failures > getattr(count, told):
            by_kind.setdefault((count.functionName, count.step, count.error), []).append(count)
    return [
        Summary(kind, int(sum(count.failures - getattr(count, told) for count in untold)), untold)
        for kind, untold in sorted(by_kind.items())
    ]


def _save(count: Suppressed) -> None:
    """Forget a count that both reports have told, unless it has grown; else store how much each has told."""
    is_told = count.emailed == count.sentToSentry == count.failures
    if is_told and try_write(lambda: count.delete(condition=Suppressed.failures == count.failures)):
        return
    told: list[Action] = [Suppressed.emailed.set(count.emailed), Suppressed.sentToSentry.set(count.sentToSentry)]
    # Another run may have deleted it.
    try_update(count, told, Suppressed.failures.exists())
