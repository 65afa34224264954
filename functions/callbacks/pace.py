"""How many failures healing redrives at once: more while redrives succeed, fewer while they fail or are throttled.

Whatever the pace, a page takes a few seconds, so that the next one reacts soon and picks up what has failed meanwhile.
"""

from collections import Counter
from collections.abc import Sequence
from math import ceil

from callbacks import config

FIRST_CONCURRENCY = 8
MAX_CONCURRENCY = int(config.required("HEALING_CONCURRENCY"))
FAILURES_PER_PLACE = 5
# The outcomes of a page, of up to 450 bytes each, must fit into 256 KiB with the ids of its failures.
MAX_PAGE = 400

# The parts of a page for the newest failures, so that they do not queue behind an outage, and for the lane that anybody
# can fill.
NEWEST_SHARE = 0.2
UNCONFIRMED_SHARE = 0.1
# However fast the pace: the bank may be asked about each of them.
MAX_UNCONFIRMED = 16
# The parts of a page that may fail before the pace slows down, and before it stops growing.
SLOW_DOWN_SHARE = 0.25
HOLD_SHARE = 0.1

NOT_STARTED = "not started"
LEFT = "left for the next run"
SKIPPED = "skipped"
UNCONFIRMED = "unconfirmed"
TROUBLE = ("open", NOT_STARTED, LEFT)


def next_concurrency(current: int, statuses: Sequence[str]) -> int:
    """Return how many failures to redrive at once, given how many it were and how each of them ended.

    `current` is 0 before the first page.
    """
    if not current:
        return min(FIRST_CONCURRENCY, MAX_CONCURRENCY)
    redriven, failed = tally(statuses)
    if not redriven:
        return current
    if failed > SLOW_DOWN_SHARE * redriven:
        return max(1, current // 2)
    return min(current * 2, MAX_CONCURRENCY) if failed <= HOLD_SHARE * redriven else current


def tally(statuses: Sequence[str]) -> tuple[int, int]:
    """Return how many failures were redriven, and how many of them failed.

    An unconfirmed callback says nothing about others, nor does a failure that another run redrives.
    """
    count = Counter(statuses)
    return len(statuses) - count[UNCONFIRMED] - count[SKIPPED], sum(count[status] for status in TROUBLE)


def page_size(concurrency: int) -> int:
    """Return how many failures a page takes."""
    return min(concurrency * FAILURES_PER_PLACE, MAX_PAGE)


def shares(size: int) -> tuple[int, int]:
    """Return how many of a page's failures may be the newest, and how many unconfirmed; the others are the oldest."""
    return ceil(size * NEWEST_SHARE), min(ceil(size * UNCONFIRMED_SHARE), MAX_UNCONFIRMED)
