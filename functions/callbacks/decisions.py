"""An operator's decision on one failed delivery: dispatch it again, or despite a conflict or a check, or dismiss it.

redrive.py puts it into the healing workflow's input: `id` (which no other decision has), `action`, `by` (the caller's
ARN) and `reason`. ClaimFailure keeps it on the failure. If it concerns the ledger, ClaimFailure passes its permit, `id`
and `action`, to the callback workflow. The API builds that workflow's input without one, so no caller can decide.
"""

from enum import StrEnum
from typing import Any

from callbacks.errors import InvalidCallback, InvalidSelection

MEMBERS = ("id", "action", "by", "reason")
MAX_CHARACTERS = 500


class Action(StrEnum):
    """AGAIN dispatches a payment that is or may be dispatched, ACCEPT a delivery that contradicts it.

    DESPITE redrives a delivery that a check refused with the checks as strict as today, and no stricter. DISMISS
    resolves the failure without a redrive.
    """

    AGAIN = "again"
    ACCEPT = "accept"
    DESPITE = "despite"
    DISMISS = "dismiss"


# These let a delivery dispatch a payment that the ledger would not let it dispatch.
DISPATCHING = (Action.AGAIN, Action.ACCEPT)


def read(event: dict[str, Any]) -> dict[str, str] | None:
    """Return the decision in the healing workflow's input, or None without one. Raises InvalidSelection."""
    if "decision" not in event:
        return None
    decision = event["decision"]
    if "requestId" not in event:
        raise InvalidSelection("decision: needs a requestId")
    if not (isinstance(decision, dict) and set(decision) == set(MEMBERS) and all(map(_is_text, decision.values()))):
        raise InvalidSelection(
            f"decision: must have {', '.join(MEMBERS)}, each with 1 to {MAX_CHARACTERS} printable characters"
        )
    if decision["action"] not in tuple(Action):
        raise InvalidSelection(f"decision: action must be one of {', '.join(Action)}")
    return decision


def permit(decision: dict[str, str] | None) -> dict[str, str] | None:
    """Return what the callback workflow needs to know of a decision, or None if that is nothing."""
    if decision is None or decision["action"] not in DISPATCHING:
        return None
    return {"id": decision["id"], "action": decision["action"]}


def read_permit(delivery: dict[str, Any]) -> dict[str, str] | None:
    """Return the permit in the callback workflow's input, or None without one. Raises InvalidCallback."""
    found = delivery.get("decision")
    if found is None:
        return None
    is_permit = isinstance(found, dict) and set(found) == {"id", "action"} and all(map(_is_text, found.values()))
    if not is_permit or found["action"] not in DISPATCHING:
        raise InvalidCallback("decision: must have an id, and again or accept as its action")
    return dict(found)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_CHARACTERS and bool(value.strip()) and value.isprintable()
