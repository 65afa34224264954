"""When a delivery that failed is run again, and when that ends."""

import json
from datetime import datetime, timedelta
from typing import Any

from callbacks import config, times

FIRST_DELAY = timedelta(minutes=int(config.required("REDRIVE_DELAY_MINUTES")))
LONGEST_DELAY = timedelta(hours=12)
MAX_ATTEMPTS = int(config.required("REDRIVE_ATTEMPTS"))
# As text inside of text, as which a state of the healing workflow holds it twice; it holds 256 KiB, not more. A valid
# body in any script stays below it.
MAX_DELIVERY_CHARACTERS = 128_000


def due_after(attempts: int, moment: datetime) -> str:
    """Return when a delivery that failed at `moment`, and was run again `attempts` times, is run again: ISO 8601."""
    return times.iso(moment + min(FIRST_DELAY * 2**attempts, LONGEST_DELAY))


def is_last(attempt: float) -> bool:
    """Tell whether an attempt, the first being 1, is the last that is made by itself."""
    return attempt >= MAX_ATTEMPTS


def is_too_large(delivery: Any) -> bool:
    """Tell whether a delivery is more than the healing workflow can hold."""
    return len(json.dumps(json.dumps(delivery))) > MAX_DELIVERY_CHARACTERS
