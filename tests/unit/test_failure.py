import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from callbacks.failure import Failure
from tests.unit.kit import Json


def test_a_failure_contains_what_its_reports_need(failure: Json) -> None:
    details = failure["report"]["failure"]["SaveCallbackRecord"]
    assert Failure.from_event(failure) == Failure(
        channel="BankApp",
        function_name="bankappcallback",
        step="SaveCallbackRecord",
        error="ServiceUnavailable",
        message="DynamoDB is <busy>",
        cause=details["Cause"],
        order_id="482500007436",
        charge_id="pay_bankapp_123",
        occurred_at="2026-11-22T10:00:01.000Z",
        received_at="2026-11-22T10:00:00.000Z",
        execution_arn=failure["report"]["executionArn"],
        request_id="8f7e6d5c",
        event=failure["event"],
        verdicts={},
    )


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ('{"errorMessage": "body: is empty", "errorType": "InvalidCallback"}', "body: is empty"),
        ('{"errorMessage": "ชำระ", "stackTrace": []}', "ชำระ"),
        ("The Lambda function returned no response", "The Lambda function returned no response"),
        ("", ""),
        ("{", "{"),
        ("[1]", "[1]"),
        ("null", "null"),
        ("7", "7"),
        ('{"error": 1}', '{"error": 1}'),
        ('{"errorMessage": null}', '{"errorMessage": null}'),
    ],
)
def test_the_message_is_that_of_the_exception_if_lambda_reports_one(failure: Json, cause: str, message: str) -> None:
    failure["report"]["failure"] = {"ValidateCallback": {"Error": "InvalidCallback", "Cause": cause}}
    assert Failure.from_event(failure).message == message
    assert Failure.from_event(failure).cause == cause


def test_an_error_without_a_cause_has_an_empty_message(failure: Json) -> None:
    failure["report"]["failure"] = {"ValidateCallback": {"Error": "States.Timeout"}}
    assert (Failure.from_event(failure).message, Failure.from_event(failure).cause) == ("", "")


@pytest.mark.parametrize("delivery", [{}, {"requestId": None}, {"requestId": ""}, {"requestId": "x" * 129}, []])
def test_a_delivery_without_a_usable_request_id_has_that_of_its_execution(failure: Json, delivery: object) -> None:
    failure["event"] = delivery
    failure["report"]["executionName"] = "started-by-hand"
    read = Failure.from_event(failure)
    assert (read.request_id, read.order_id, read.charge_id) == ("started-by-hand", None, None)


def test_a_request_id_may_have_128_characters(failure: Json) -> None:
    failure["event"]["requestId"] = "x" * 128
    assert Failure.from_event(failure).request_id == "x" * 128


@pytest.mark.parametrize("delivery", [{}, {"receivedAt": None}, {"receivedAt": "yesterday"}, [], None])
def test_a_delivery_without_a_usable_time_was_received_when_it_was_started(failure: Json, delivery: Any) -> None:
    failure["event"] = delivery
    failure["report"]["startedAt"] = "2026-11-22T10:00:00.5Z"
    assert Failure.from_event(failure).received_at == "2026-11-22T10:00:00.500Z"


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-22T10:00:01Z",
        "2026-11-22T10:00:01.0Z",
        "2026-11-22T10:00:01.000Z",
        "2026-11-22T10:00:01.000999Z",
        "2026-11-22T17:00:01+07:00",
    ],
)
def test_the_time_of_a_failure_has_one_spelling(failure: Json, time: str) -> None:
    failure["report"]["occurredAt"] = time
    assert Failure.from_event(failure).occurred_at == "2026-11-22T10:00:01.000Z"


@pytest.mark.parametrize(
    ("error", "needs_operator"),
    [
        ("InvalidCallback", True),
        ("InvalidSignature", True),
        ("PaymentConflict", True),
        ("PaymentMismatch", True),
        ("DispatchUndecided", True),
        ("DispatchUncertain", False),
        ("OrderNotFound", False),
        ("ConfigurationError", False),
        ("DispatchInProgress", False),
        ("ServiceUnavailable", False),
        ("States.Timeout", False),
        ("KeyError", False),
    ],
)
def test_a_failure_that_no_redrive_can_cure_needs_an_operator(failure: Json, error: str, needs_operator: bool) -> None:
    failure["report"]["failure"] = {"InvokeProcessPaid": {"Error": error, "Cause": ""}}
    assert Failure.from_event(failure).needs_operator is needs_operator


SIGNED = {"VerifySignature": {"verdict": "passed"}}


@pytest.mark.parametrize(
    ("error", "checks", "lane"),
    [
        ("OrderNotFound", {}, "unconfirmed"),
        ("PaymentNotConfirmed", {}, "unconfirmed"),
        ("OrderNotFound", {"VerifySignature": {"verdict": "skipped"}}, "unconfirmed"),
        ("OrderNotFound", {"VerifySignature": {"verdict": "InvalidSignature: is missing"}}, "unconfirmed"),
        # Another check's verdict says nothing about the sender.
        ("PaymentNotConfirmed", {"CrossCheckPayment": {"verdict": "passed"}}, "unconfirmed"),
        ("OrderNotFound", SIGNED, "healing"),
        ("PaymentNotConfirmed", SIGNED, "healing"),
        ("ServiceUnavailable", {}, "healing"),
        ("DispatchUncertain", {}, "healing"),
        ("States.Timeout", {}, "healing"),
    ],
)
def test_what_a_stranger_can_cause_has_a_lane_of_its_own(failure: Json, error: str, checks: Json, lane: str) -> None:
    failure["report"] |= {"failure": {"CrossCheckPayment": {"Error": error, "Cause": ""}}, "checks": checks}
    assert Failure.from_event(failure).lane == lane


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(body=json_values, cause=st.text(max_size=50) | json_values.map(json.dumps))
@example(body="\ud83c", cause="\ud83c")
@example(body='{"orderId": "\ud83c"}', cause='{"errorMessage": null}')
def test_any_delivery_and_any_cause_can_be_reported(body: Any, cause: str) -> None:
    read = Failure.from_event(
        {
            "report": {
                "channel": "BankApp",
                "functionName": "bankappcallback",
                "failure": {"ValidateCallback": {"Error": "InvalidCallback", "Cause": cause}},
                "executionArn": "arn",
                "executionName": "name",
                "startedAt": "2026-11-22T10:00:00.100Z",
                "occurredAt": "2026-11-22T10:00:01.000Z",
            },
            "event": {"body": body},
        }
    )
    assert read.event == {"body": body}
    assert isinstance(read.message, str)


def test_the_failed_step_is_not_a_check_that_only_warned(failure: Json) -> None:
    caught = {"Error": "Lambda.TooManyRequestsException", "Cause": ""}
    failure["report"]["modes"] = {"VerifySignature": "warn", "CrossCheckPayment": "enforce", "InquirePayment": "off"}
    failure["report"]["failure"] = {
        "VerifySignature": caught,
        "CrossCheckPayment": {"Error": "PaymentMismatch", "Cause": ""},
    }
    assert Failure.from_event(failure).step == "CrossCheckPayment"
