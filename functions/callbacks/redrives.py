"""When a failed delivery is redriven, in which lane, how often, and up to what size."""

import json
from datetime import datetime, timedelta
from typing import Any

from callbacks import config, deliveries
from callbacks.queues import Lane

FIRST_DELAY = timedelta(minutes=int(config.required("REDRIVE_DELAY_MINUTES")))
LONGEST_DELAY = timedelta(hours=12)
MAX_ATTEMPTS = {
    Lane.HEALING: int(config.required("REDRIVE_ATTEMPTS")),
    Lane.UNCONFIRMED: int(config.required("UNCONFIRMED_ATTEMPTS")),
}
# Measured as doubly escaped JSON. A state of the healing workflow holds it twice, beside up to 32 KiB of cause, within
# 256 KiB. What the API lets through is smaller; an execution that an operator starts may have any input.
MAX_DELIVERY_BYTES = 112_000


def due_after(attempts: float, moment: datetime) -> datetime:
    """Return when to redrive a delivery that failed at `moment` after `attempts` redrives."""
    return moment + min(FIRST_DELAY * (1 << int(attempts)), LONGEST_DELAY)


def first_due_at(occurred_at: str) -> datetime:
    """Return when to redrive a delivery for the first time that failed at `occurred_at`, ISO 8601 text."""
    return due_after(0, datetime.fromisoformat(occurred_at))


def is_last(attempt: float, lane: str) -> bool:
    """Return whether an attempt, counted from 1, is the last that healing makes in this lane."""
    return attempt >= MAX_ATTEMPTS[Lane(lane)]


def is_too_large(delivery: Any) -> bool:
    """Return whether a delivery is larger than the healing workflow can hold."""
    return len(json.dumps(deliveries.as_text(delivery), ensure_ascii=False).encode()) > MAX_DELIVERY_BYTES
