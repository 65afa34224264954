"""Which failed deliveries a person, or the schedule, wants to have run again."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from callbacks import times
from callbacks.errors import InvalidSelection

MEMBERS = ("requestId", "orderId", "since", "dryRun", "limit", "after")
MAX_FAILURES = 100

# What ClaimFailure adds to a request id to name the execution of a repeat. Something stands before it: an id that is
# empty would select all that are due.
REPEAT = re.compile(r"(?<=.)-redrive-[0-9]+\Z")


@dataclass(frozen=True, slots=True)
class Selection:
    """One delivery, one order, all since a time, or, where none of them is given, all that are due.

    At most `limit` failures are found at once; `after` is where the last page ended.
    """

    request_id: str | None = None
    order_id: str | None = None
    since: str | None = None
    limit: int = MAX_FAILURES
    after: dict[str, Any] | None = None

    @property
    def is_manual(self) -> bool:
        """Whether a person has asked, rather than the schedule."""
        return any((self.request_id, self.order_id, self.since))

    @classmethod
    def from_event(cls, event: Any) -> Self:
        """Read the healing workflow's input: an object with the members that MEMBERS names, each of them optional.

        The request id may be that of a repeat.
        Raises InvalidSelection; what is misspelt must not be taken for "all that are due".
        """
        if not isinstance(event, dict):
            raise InvalidSelection("The input must be an object")
        if unknown := set(event) - set(MEMBERS):
            raise InvalidSelection(f"{', '.join(sorted(unknown))}: is not one of {', '.join(MEMBERS)}")
        if len({"requestId", "orderId", "since"} & set(event)) > 1:
            raise InvalidSelection("Only one of requestId, orderId and since can be given")
        for member in ("requestId", "orderId", "since"):
            if member in event and not (isinstance(event[member], str) and event[member]):
                raise InvalidSelection(f"{member}: must be a string that is not empty")
        if not isinstance(event.get("dryRun", False), bool):
            raise InvalidSelection("dryRun: must be true or false")
        limit = event.get("limit", MAX_FAILURES)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_FAILURES:
            raise InvalidSelection(f"limit: must be a number from 1 to {MAX_FAILURES}")
        after = event.get("after")
        if not isinstance(after, dict | None):
            raise InvalidSelection("after: must be the `next` of the page before")
        return cls(_first(event.get("requestId")), event.get("orderId"), _time(event.get("since")), limit, after)


def _first(request_id: str | None) -> str | None:
    """Return the id under which the delivery was first received, from its own, API Gateway's or that of a repeat."""
    return None if request_id is None else REPEAT.sub("", request_id.rstrip("=") or request_id)


def _time(since: str | None) -> str | None:
    if since is None:
        return None
    try:
        moment = datetime.fromisoformat(since)
        if moment.tzinfo is None:
            raise InvalidSelection("since: must name its time zone, as 2026-11-22T10:00:00Z does")
        return times.iso(moment)
    except (ValueError, OverflowError):
        raise InvalidSelection("since: must be a time as 2026-11-22T10:00:00Z") from None
