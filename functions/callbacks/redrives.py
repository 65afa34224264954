"""When a delivery that failed is run again, and when that ends."""

import json
import re
from datetime import datetime, timedelta
from typing import Any

from callbacks import config, times

FIRST_DELAY = timedelta(minutes=int(config.required("REDRIVE_DELAY_MINUTES")))
LONGEST_DELAY = timedelta(hours=12)
MAX_ATTEMPTS = int(config.required("REDRIVE_ATTEMPTS"))
# As text inside of text, as which a state of the healing workflow holds it twice, beside up to 32 KiB of an execution's
# cause; all of it may have 256 KiB. Of what is valid only a body of little but quotes and backslashes has more.
MAX_DELIVERY_BYTES = 112_000


def due_after(attempts: int, moment: datetime) -> str:
    """Return when a delivery that failed at `moment`, and was run again `attempts` times, is run again: ISO 8601."""
    return times.iso(moment + min(FIRST_DELAY * 2**attempts, LONGEST_DELAY))


def is_last(attempt: float) -> bool:
    """Tell whether an attempt, the first being 1, is the last that is made by itself."""
    return attempt >= MAX_ATTEMPTS


def as_text(delivery: Any) -> str:
    """Return a delivery as JSON text, with escapes only where it has half a surrogate pair, which no encoding has."""
    text = json.dumps(delivery, ensure_ascii=False)
    return json.dumps(delivery) if re.search("[\ud800-\udfff]", text) else text


def is_too_large(delivery: Any) -> bool:
    """Tell whether a delivery is more than the healing workflow can hold."""
    return len(json.dumps(as_text(delivery), ensure_ascii=False).encode()) > MAX_DELIVERY_BYTES
