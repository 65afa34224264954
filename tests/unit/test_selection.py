import re
from typing import Any

import pytest

from callbacks.errors import InvalidSelection
from callbacks.selection import MAX_FAILURES, Selection
from tests.unit.kit import Json

AFTER = {"requestId": {"S": "8f7e6d5c"}}
DECISION = {"id": "decision-1", "action": "again", "by": "arn", "reason": "no trace"}
MEMBERS = "requestId, orderId, since, refused, dryRun, limit, after, decision"


@pytest.mark.parametrize(
    ("event", "selection"),
    [
        ({}, Selection()),
        ({"requestId": "8f7e6d5c"}, Selection(request_id="8f7e6d5c")),
        ({"orderId": "482500007436"}, Selection(order_id="482500007436")),
        ({"since": "2026-11-22T10:00:00Z"}, Selection(since="2026-11-22T10:00:00.000Z")),
        ({"limit": 1}, Selection(limit=1)),
        ({"limit": MAX_FAILURES}, Selection(limit=100)),
        ({"after": AFTER}, Selection(after=AFTER)),
        ({"after": None}, Selection()),
        ({"requestId": "8f7e6d5c", "decision": DECISION}, Selection(request_id="8f7e6d5c", decision=DECISION)),
        (
            {"since": "2026-11-22T10:00:00Z", "refused": True},
            Selection(since="2026-11-22T10:00:00.000Z", is_refused_included=True),
        ),
        (
            {"requestId": "8f7e6d5c", "orderId": "482500007436", "decision": DECISION},
            Selection(request_id="8f7e6d5c", order_id="482500007436", decision=DECISION),
        ),
        # The states handle a dry run.
        ({"dryRun": True}, Selection()),
        ({"dryRun": False}, Selection()),
        (
            {"since": "2026-11-22T10:00:00Z", "dryRun": True, "limit": 7, "after": AFTER},
            Selection(since="2026-11-22T10:00:00.000Z", limit=7, after=AFTER),
        ),
    ],
)
def test_a_selection_is_what_its_members_say(event: Json, selection: Selection) -> None:
    assert Selection.from_event(event) == selection


def test_the_default_limit_is_the_maximum() -> None:
    assert Selection.from_event({}).limit == MAX_FAILURES


@pytest.mark.parametrize(
    ("event", "is_manual"),
    [
        ({}, False),
        ({"dryRun": True, "limit": 1, "after": AFTER}, False),
        ({"requestId": "8f7e6d5c"}, True),
        ({"orderId": "482500007436"}, True),
        ({"since": "2026-11-22T10:00:00Z"}, True),
    ],
)
def test_a_selection_is_manual_if_it_names_a_delivery_an_order_or_a_time(event: Json, is_manual: bool) -> None:
    assert Selection.from_event(event).is_manual is is_manual


@pytest.mark.parametrize(
    ("request_id", "delivery"),
    [
        ("8f7e6d5c-redrive-8", "8f7e6d5c"),
        ("8f7e6d5c-redrive-120", "8f7e6d5c"),
        ("8f7e6d5c-redrive-1-redrive-2", "8f7e6d5c-redrive-1"),
        # Not the name of a redrive.
        ("8f7e6d5c-redrive-", "8f7e6d5c-redrive-"),
        ("8f7e6d5c-redrive-8b", "8f7e6d5c-redrive-8b"),
        ("8f7e6d5c-redrive-8\n", "8f7e6d5c-redrive-8\n"),
        ("redrive-8", "redrive-8"),
        ("-redrive-8", "-redrive-8"),
    ],
)
def test_the_request_id_of_a_redrive_selects_its_delivery(request_id: str, delivery: str) -> None:
    assert Selection.from_event({"requestId": request_id}) == Selection(request_id=delivery)


def test_only_a_request_id_can_be_that_of_a_redrive() -> None:
    assert Selection.from_event({"orderId": "1-redrive-8"}) == Selection(order_id="1-redrive-8")


@pytest.mark.parametrize(
    ("since", "read"),
    [
        ("2026-11-22T10:00Z", "2026-11-22T10:00:00.000Z"),
        ("2026-11-22T10:00:00.5Z", "2026-11-22T10:00:00.500Z"),
        ("2026-11-22T10:00:00.123456+00:00", "2026-11-22T10:00:00.123Z"),
        ("2026-11-22T17:00:00+07:00", "2026-11-22T10:00:00.000Z"),
        ("2026-11-22 06:30:00-03:30", "2026-11-22T10:00:00.000Z"),
    ],
)
def test_a_time_is_converted_to_the_stored_form(since: str, read: str) -> None:
    assert Selection.from_event({"since": since}).since == read


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (None, "The input must be an object"),
        ([], "The input must be an object"),
        ("requestId", "The input must be an object"),
        ({"request_id": "1"}, f"request_id: is unknown; use {MEMBERS}"),
        ({"orderid": "1"}, f"orderid: is unknown; use {MEMBERS}"),
        ({"dryrun": True, "Since": ""}, f"Since, dryrun: is unknown; use {MEMBERS}"),
        ({"requestId": "1", "orderId": "2"}, "Give only one of requestId, orderId and since"),
        ({"orderId": "2", "since": "2026-11-22T10:00:00Z"}, "Give only one of requestId, orderId and since"),
        ({"requestId": None, "since": None}, "Give only one of requestId, orderId and since"),
        ({"dryRun": "true"}, "dryRun: must be true or false"),
        ({"dryRun": 1}, "dryRun: must be true or false"),
        ({"dryRun": None}, "dryRun: must be true or false"),
        ({"since": "2026-11-22T10:00:00Z", "refused": "true"}, "refused: must be true or false"),
        (
            {"orderId": "1", "refused": True},
            "refused: goes with since; requestId and orderId include refused callbacks",
        ),
        ({"refused": False}, "refused: goes with since; requestId and orderId include refused callbacks"),
        ({"limit": 0}, "limit: must be a number from 1 to 100"),
        ({"limit": 101}, "limit: must be a number from 1 to 100"),
        ({"limit": 1.5}, "limit: must be a number from 1 to 100"),
        ({"limit": "1"}, "limit: must be a number from 1 to 100"),
        ({"limit": True}, "limit: must be a number from 1 to 100"),
        ({"limit": None}, "limit: must be a number from 1 to 100"),
        ({"since": "yesterday"}, "since: must be a time such as 2026-11-22T10:00:00Z"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "since: must be a time such as 2026-11-22T10:00:00Z"),
        ({"after": ""}, "after: must be the `next` of the previous page"),
        ({"after": "x"}, "after: must be the `next` of the previous page"),
        ({"since": "2026-13-01T00:00:00Z"}, "since: must be a time such as 2026-11-22T10:00:00Z"),
        ({"since": "2026-11-22T10:00:00"}, "since: must include a time zone, such as 2026-11-22T10:00:00Z"),
        ({"decision": DECISION}, "decision: needs a requestId"),
        ({"orderId": "1", "decision": DECISION}, "decision: needs a requestId"),
        ({"since": "2026-11-22"}, "since: must include a time zone, such as 2026-11-22T10:00:00Z"),
    ],
)
def test_a_misspelt_selection_is_refused_not_taken_for_everything_due(event: Any, message: str) -> None:
    with pytest.raises(InvalidSelection, match=f"^{re.escape(message)}$"):
        Selection.from_event(event)


@pytest.mark.parametrize("member", ["requestId", "orderId", "since"])
@pytest.mark.parametrize("value", [None, "", 7, True, [], {"S": "1"}])
def test_an_empty_selection_value_is_refused(member: str, value: object) -> None:
    with pytest.raises(InvalidSelection, match=f"^{member}: must be a non-empty string$"):
        Selection.from_event({member: value})
