"""Which failed deliveries an operator, or the schedule, wants redriven."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from callbacks import decisions, request_ids, times
from callbacks.errors import InvalidSelection

MEMBERS = ("requestId", "orderId", "since", "refused", "dryRun", "limit", "after", "decision")
MAX_FAILURES = 100


@dataclass(frozen=True, slots=True)
class Selection:
    """One delivery, one order, or every failure since a time; if none is given, every failure that is due.

    Refused callbacks are among those since a time only if `is_refused_included`: they may be forgeries. A page has at
    most `limit` failures; `after` is the `next` of the previous page. `decision` is an operator's on one delivery;
    callbacks.decisions describes it. With the order beside its request id, the delivery need not have failed.
    """

    request_id: str | None = None
    order_id: str | None = None
    since: str | None = None
    is_refused_included: bool = False
    limit: int = MAX_FAILURES
    after: dict[str, Any] | None = None
    decision: dict[str, str] | None = None

    @property
    def is_manual(self) -> bool:
        """Whether an operator asked, rather than the schedule."""
        return any((self.request_id, self.order_id, self.since))

    @classmethod
    def from_event(cls, event: Any) -> Self:
        """Read the healing workflow's input: an object with any of MEMBERS.

        `requestId` may be a redrive's name as well. Raises InvalidSelection, also for an unknown member: a misspelling
        must not select every failure that is due.
        """
        if not isinstance(event, dict):
            raise InvalidSelection("The input must be an object")
        if unknown := set(event) - set(MEMBERS):
            raise InvalidSelection(f"{', '.join(sorted(unknown))}: is unknown; use {', '.join(MEMBERS)}")
        chosen = {"requestId", "orderId", "since"} & set(event)
        if len(chosen) > 1 and not (chosen == {"requestId", "orderId"} and "decision" in event):
            raise InvalidSelection("Give only one of requestId, orderId and since")
        for member in ("requestId", "orderId", "since"):
            if member in event and not (isinstance(event[member], str) and event[member]):
                raise InvalidSelection(f"{member}: must be a non-empty string")
        for member in ("dryRun", "refused"):
            if not isinstance(event.get(member, False), bool):
                raise InvalidSelection(f"{member}: must be true or false")
        if "refused" in event and "since" not in event:
            raise InvalidSelection("refused: goes with since; requestId and orderId include refused callbacks")
        limit = event.get("limit", MAX_FAILURES)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_FAILURES:
            raise InvalidSelection(f"limit: must be a number from 1 to {MAX_FAILURES}")
        after = event.get("after")
        if not isinstance(after, dict | None):
            raise InvalidSelection("after: must be the `next` of the previous page")
        request_id = request_ids.first_request_id(event["requestId"]) if "requestId" in event else None
        return cls(
            request_id,
            event.get("orderId"),
            _time(event.get("since")),
            event.get("refused", False),
            limit,
            after,
            decisions.read(event),
        )


def _time(since: str | None) -> str | None:
    if since is None:
        return None
    try:
        moment = datetime.fromisoformat(since)
        if moment.tzinfo is None:
            raise InvalidSelection("since: must include a time zone, such as 2026-11-22T10:00:00Z")
        return times.iso(moment)
    except (ValueError, OverflowError):
        raise InvalidSelection("since: must be a time such as 2026-11-22T10:00:00Z") from None
