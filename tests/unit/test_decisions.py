import re
from typing import Any

import pytest

from callbacks import decisions
from callbacks.errors import InvalidCallback, InvalidSelection

DECISION = {"id": "decision-1", "action": "again", "by": "arn:aws:iam::123456789012:user/nan", "reason": "ไม่พบในล็อก"}
PERMIT = {"id": "decision-1", "action": "again"}
TEXTS = "decision: must have id, action, by, reason, each with 1 to 500 printable characters"


@pytest.mark.parametrize("action", ["again", "accept", "despite", "dismiss"])
def test_a_decision_is_read_as_it_was_made(action: str) -> None:
    decision = DECISION | {"action": action, "reason": "x" * 500}
    assert decisions.read({"requestId": "8f7e6d5c", "decision": decision}) == decision


def test_a_selection_without_a_decision_has_none() -> None:
    assert decisions.read({"requestId": "8f7e6d5c"}) is None


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (None, TEXTS),
        ("again", TEXTS),
        ({**PERMIT, "by": "arn"}, TEXTS),
        (DECISION | {"more": "x"}, TEXTS),
        (DECISION | {"reason": ""}, TEXTS),
        (DECISION | {"reason": "   "}, TEXTS),
        (DECISION | {"reason": "x" * 501}, TEXTS),
        (DECISION | {"reason": "two\nlines"}, TEXTS),
        (DECISION | {"by": 7}, TEXTS),
        (DECISION | {"action": "retry"}, "decision: action must be one of again, accept, despite, dismiss"),
        (DECISION | {"action": "Again"}, "decision: action must be one of again, accept, despite, dismiss"),
    ],
)
def test_a_decision_that_is_incomplete_or_unknown_is_refused(decision: Any, message: str) -> None:
    with pytest.raises(InvalidSelection, match=f"^{re.escape(message)}$"):
        decisions.read({"requestId": "8f7e6d5c", "decision": decision})


@pytest.mark.parametrize("selection", [{}, {"orderId": "1"}, {"since": "2026-11-22T10:00:00Z"}], ids=str)
def test_a_decision_is_for_one_delivery_only(selection: dict[str, str]) -> None:
    with pytest.raises(InvalidSelection, match=r"^decision: needs a requestId$"):
        decisions.read({**selection, "decision": DECISION})


def test_the_callback_workflow_learns_no_more_than_it_needs() -> None:
    assert decisions.permit(DECISION) == PERMIT
    assert decisions.permit(None) is None
    assert decisions.read_permit({"decision": PERMIT}) == PERMIT


@pytest.mark.parametrize("action", ["despite", "dismiss"])
def test_a_decision_that_the_ledger_need_not_know_has_no_permit(action: str) -> None:
    assert decisions.permit(DECISION | {"action": action}) is None


@pytest.mark.parametrize("delivery", [{}, {"decision": None}], ids=str)
def test_a_delivery_without_a_permit_has_none(delivery: dict[str, Any]) -> None:
    assert decisions.read_permit(delivery) is None


@pytest.mark.parametrize(
    "permit",
    ["again", [], {}, {"id": "1"}, {"id": "", "action": "again"}, {"id": "1", "action": "despite"}, DECISION],
    ids=str,
)
def test_a_delivery_with_an_unknown_permit_is_refused(permit: Any) -> None:
    with pytest.raises(InvalidCallback, match=r"^decision: must have an id, and again or accept as its action$"):
        decisions.read_permit({"decision": permit})
