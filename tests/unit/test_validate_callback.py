import json
from pathlib import Path
from typing import Any

import pytest

from callbacks.errors import InvalidCallback
from tests.unit.kit import Json, Load, Task

EVENTS = Path(__file__).parents[2] / "events"


def event(name: str, **delivery: Any) -> Json:
    """The input of the state for a file of events/."""
    body = json.loads((EVENTS / f"{name}.json").read_text())["body"]
    return {
        "delivery": {
            "body": body,
            "requestId": "8f7e6d5c",
            "receivedAt": 1795341600123,
            "sourceIp": "203.0.113.7",
            "headers": {},
            **delivery,
        },
        "executionName": "execution-name",
        "startedAt": "2026-11-22T11:00:00.456Z",
    }


@pytest.fixture
def task(load: Load) -> Task:
    return load("validate_callback")


def test_what_later_states_need_of_a_callback_is_returned(task: Task, callback: Json) -> None:
    assert task.handler(event("paid"), None) == {
        **callback,
        "receivedAt": "2026-11-22T10:00:00.123Z",
        "deliveryId": "2026-11-22T10:00:00.123Z#8f7e6d5c",
    }


def test_a_declined_payment_is_a_valid_callback(task: Task) -> None:
    assert task.handler(event("declined"), None)["success"] is False


def test_a_missing_amount_is_null(task: Task) -> None:
    assert task.handler(event("only-required-fields"), None)["amount"] is None


@pytest.mark.parametrize(
    ("name", "amount"), [("exact-amount", "90071992547409.93"), ("unknown-fields", "1.50"), ("paid", "2339.0")]
)
def test_an_amount_is_text_to_stay_exact(task: Task, name: str, amount: str) -> None:
    assert task.handler(event(name), None)["amount"] == amount


@pytest.mark.parametrize(
    "name", ["paid", "declined", "exact-amount", "only-required-fields", "text-of-all-kinds", "unknown-fields"]
)
def test_the_result_is_json_that_step_functions_can_pass_on(task: Task, name: str) -> None:
    result = task.handler(event(name), None)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "body: is empty"),
        ("malformed", "body: is not JSON (Expecting value, line 1 column 72)"),
        ("missing-fields", "orderId: is missing; userId: is missing; success: is missing"),
        ("duplicate-keys", "success: appears more than once"),
    ],
)
def test_an_invalid_callback_is_refused_with_a_message(task: Task, name: str, message: str) -> None:
    with pytest.raises(InvalidCallback) as error:
        task.handler(event(name), None)
    assert str(error.value) == message


@pytest.mark.parametrize("unusable", [None, "", "x" * 129])
def test_a_delivery_without_a_usable_identity_takes_its_executions(task: Task, unusable: str | None) -> None:
    result = task.handler(event("paid", requestId=unusable, receivedAt=unusable), None)
    assert result["requestId"] == "execution-name"
    assert result["receivedAt"] == "2026-11-22T11:00:00.456Z"
    assert result["deliveryId"] == "2026-11-22T11:00:00.456Z#execution-name"


def test_a_body_alone_is_a_delivery(task: Task) -> None:
    received = event("paid")
    received["delivery"] = {"body": received["delivery"]["body"]}
    result = task.handler(received, None)
    assert result["deliveryId"] == "2026-11-22T11:00:00.456Z#execution-name"


@pytest.mark.parametrize("delivery", [None, 7, "{}", []], ids=str)
def test_an_input_that_is_no_delivery_is_refused(task: Task, delivery: Any) -> None:
    with pytest.raises(InvalidCallback, match=r"^input: must be an object with the request's body as `body`$"):
        task.handler({**event("paid"), "delivery": delivery}, None)


def test_a_body_that_the_api_has_cut_is_refused(task: Task) -> None:
    with pytest.raises(InvalidCallback, match=r"^body: has 9000 characters, "):
        task.handler(event("paid", bodyLength=9_000), None)


def test_an_input_without_a_body_is_refused(task: Task) -> None:
    with pytest.raises(InvalidCallback, match=r"^body: must be the request's body as a string, not null$"):
        task.handler({**event("paid"), "delivery": {}}, None)


@pytest.mark.parametrize("action", ["again", "accept"])
def test_the_permit_of_an_operators_decision_is_passed_on(task: Task, action: str) -> None:
    permit = {"id": "decision-1", "action": action}
    assert task.handler(event("paid", decision=permit), None)["decision"] == permit


def test_an_unknown_permit_is_refused(task: Task) -> None:
    with pytest.raises(InvalidCallback, match=r"^decision: must have an id"):
        task.handler(event("paid", decision={"id": "1", "action": "dismiss"}), None)


def test_a_decision_in_the_body_is_a_field_like_any_other(task: Task) -> None:
    body = (
        '{"orderId": "1", "paymentId": "2", "userId": "3", "success": true, "decision": {"id": "1", "action": "again"}}'
    )
    assert task.handler(event("paid", body=body), None)["decision"] is None
