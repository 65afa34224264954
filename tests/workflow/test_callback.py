"""The callback workflow with the real handlers: what it answers, records, dispatches and reports."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from local.stack import ROOT
from tests.outcomes import FAILURE_MESSAGE, OUTCOMES, Outcome, body_of
from tests.sources import CALLBACK_TASKS
from tests.workflow.account import (
    CLAIM_PAYMENT,
    CONFIRM_DISPATCH,
    INVOKE,
    PROCESS_DIED,
    SAVE_ERROR,
    SAVE_RECORD,
    SEND_MAIL,
    AwsCalls,
    Call,
    Fault,
    Workflow,
    client,
    lambda_error,
)
from tests.workflow.engine import RECORD_TABLE, Execution
from tests.workflow.paths import CONFIRMED_LATER, DECLINED, FAILED, INVALID, LOOKED_UP, PAID, SAVED

PROCESS_PAID = "payment3-process-paid-wallet-order-internal-test"


def path_of(outcome: Outcome) -> list[str]:
    if outcome.refusal:
        return INVALID
    return PAID if outcome.processing else DECLINED


def from_api(name: str) -> dict[str, Any]:
    """Return the input that the API's request template builds."""
    return {
        "body": body_of(name),
        "requestId": "5f0c6e1d",
        "receivedAt": 1732320000123,
        "sourceIp": "203.0.113.7",
        "headers": {"content-type": "application/json"},
    }


def assert_internal_error(execution: Execution) -> None:
    """The caller gets the request id and no detail of the failure."""
    assert execution.answer == (
        500,
        {"success": False, "error": f"Internal error, request id {execution.name}", "message": FAILURE_MESSAGE},
    )


def throttle(aws: AwsCalls, call: Call) -> None:
    aws.refuse(call, "ThrottlingException")


def test_a_paid_callback_is_recorded_dispatched_and_answered(workflow: Workflow) -> None:
    execution = workflow.run(from_api("paid"))

    assert execution.states == PAID
    assert execution.answer == (
        200,
        {
            "success": True,
            "message": "BankApp callback recorded",
            "orderId": "482500007436",
            "paymentId": "pay_bankapp_123",
            "processing": True,
            "duplicate": False,
        },
    )
    assert workflow.records == [
        {
            "orderId": "482500007436",
            "deliveryId": "2024-11-23T00:00:00.123Z#5f0c6e1d",
            "paymentId": "pay_bankapp_123",
            "userId": "b5f392f7-6d89-433c-b24f-bf6a772cab1a",
            "success": True,
            "amount": Decimal("2339.0"),
            "message": "Payment successful",
            "extra": "{}",
            "body": body_of("paid"),
            "channel": "BankApp",
            "shard": "BankApp#2",
            "requestId": "5f0c6e1d",
            "receivedAt": "2024-11-23T00:00:00.123Z",
            "sourceIp": "203.0.113.7",
            "executionArn": execution.arn,
            "signature": "skipped",
            "crossCheck": "skipped",
            "inquiry": "skipped",
            "dispatchedBy": "2024-11-23T00:00:00.123Z#5f0c6e1d",
        }
    ]
    assert workflow.dispatched == [(PROCESS_PAID, "Event", body_of("paid").encode())]
    assert set(execution.attempts.values()) == {1}
    assert (workflow.errors, workflow.mails, workflow.sentry.events) == ([], [], [])


def test_a_declined_callback_is_recorded_but_not_dispatched(workflow: Workflow) -> None:
    execution = workflow.run(from_api("declined"))

    assert execution.states == DECLINED
    assert execution.answer == (
        200,
        {
            "success": True,
            "message": "BankApp callback recorded",
            "orderId": "482500007437",
            "paymentId": "pay_bankapp_124",
            "processing": False,
            "duplicate": False,
        },
    )
    assert [record["success"] for record in workflow.records] == [False]
    assert workflow.dispatched == []
    assert (workflow.errors, workflow.mails, workflow.sentry.events) == ([], [], [])


def test_every_event_file_has_an_expected_outcome() -> None:
    assert {file.stem for file in (ROOT / "events").iterdir()} == set(OUTCOMES)


# As when an operator starts an execution in the console: the API's facts about the request are missing.
@pytest.mark.parametrize("name", OUTCOMES)
def test_an_input_with_nothing_but_a_body_has_the_event_files_outcome(workflow: Workflow, name: str) -> None:
    outcome, body = OUTCOMES[name], body_of(name)

    execution = workflow.run({"body": body})

    assert execution.states == path_of(outcome)
    status, answer = execution.answer
    assert status == outcome.status
    outcome.assert_met_by(answer)
    if outcome.refusal:
        assert workflow.records == []
    else:
        (record,) = workflow.records
        assert record["body"] == body
        assert (answer["orderId"], answer["paymentId"]) == (record["orderId"], record["paymentId"])
        assert record["requestId"] == execution.name
        assert record["deliveryId"] == f"{record['receivedAt']}#{execution.name}"
    assert workflow.dispatched == ([(PROCESS_PAID, "Event", body.encode())] if outcome.processing else [])
    assert len(workflow.errors) == len(workflow.mails) == len(workflow.sentry.events) == bool(outcome.refusal)


@pytest.mark.parametrize(("start", "kind"), [({}, "null"), ({"body": {"orderId": "482500007436"}}, "an object")])
def test_an_input_whose_body_is_not_a_string_is_refused(workflow: Workflow, start: dict[str, Any], kind: str) -> None:
    execution = workflow.run(start)

    assert execution.states == INVALID
    assert execution.answer == (
        500,
        {
            "success": False,
            "error": f"body: must be the request's body as a string, not {kind}",
            "message": FAILURE_MESSAGE,
        },
    )
    assert len(workflow.errors) == len(workflow.mails) == len(workflow.sentry.events) == 1


@pytest.mark.parametrize(
    ("name", "order", "charge"),
    [
        ("duplicate-keys", "482500007445", "pay_bankapp_132"),
        ("malformed", "482500007442", "pay_bankapp_129"),
        ("missing-fields", None, "pay_bankapp_131"),
        ("wrong-types", "482500007444", None),
        ("empty", None, None),
    ],
)
def test_an_invalid_callback_is_reported_once_with_its_readable_ids(
    workflow: Workflow, name: str, order: str | None, charge: str | None
) -> None:
    execution = workflow.run(from_api(name))

    assert (execution.attempts["ValidateCallback"], execution.waits) == (1, [])
    (error,) = workflow.errors
    assert error["executionArn"] == execution.arn
    assert error["functionName"] == "bankappcallback"
    assert error["channel"] == "BankApp"
    assert (error["step"], error["error"]) == ("ValidateCallback", "InvalidCallback")
    assert (error.get("orderId"), error.get("chargeId")) == (order, charge)
    assert error["requestId"] == "5f0c6e1d"
    assert json.loads(error["event"]) == from_api(name)
    assert error["cause"] == OUTCOMES[name].refusal
    (mail,) = workflow.mails
    assert mail.subject == "[test] BankApp callback: InvalidCallback"
    assert mail.source == "callbacks@example.com"
    assert mail.destinations == {"ToAddresses": ["oncall@example.com", "payments@example.com"]}
    for cell in (order or "unknown", charge or "unknown", "ValidateCallback", execution.arn):
        assert f"<td>{cell}</td>" in mail.body
    (reported,) = workflow.sentry.events
    assert reported["fingerprint"] == ["bankappcallback", "ValidateCallback", "InvalidCallback"]
    assert reported["tags"]["orderId"] == (order or "unknown")
    assert reported["tags"]["chargeId"] == (charge or "unknown")
    assert reported["exception"]["values"] == [{"type": "InvalidCallback", "value": OUTCOMES[name].refusal}]


@pytest.mark.parametrize("start", [[], "text", None, {"failure": {"A": {}, "B": {}}}, {"failure": "text"}], ids=str)
def test_any_input_gets_a_clear_answer_and_all_reports(workflow: Workflow, start: Any) -> None:
    execution = workflow.run(start)

    assert execution.states == INVALID
    status, answer = execution.answer
    assert status == 500
    assert answer["error"].startswith(("input: must be an object", "body: must be the request's body as a string"))
    (error,) = workflow.errors
    assert json.loads(error["event"]) == start
    assert len(workflow.mails) == len(workflow.sentry.events) == 1


@pytest.mark.parametrize("facts", [{"requestId": 7}, {"requestId": ""}, {"receivedAt": 1e300}, {"receivedAt": "now"}])
def test_unusable_facts_about_the_request_are_replaced_by_the_executions(
    workflow: Workflow, facts: dict[str, Any]
) -> None:
    execution = workflow.run(from_api("paid") | facts)

    assert execution.states == PAID
    (record,) = workflow.records
    assert record["requestId"] == (execution.name if "requestId" in facts else "5f0c6e1d")
    assert record["deliveryId"] == f"{record['receivedAt']}#{record['requestId']}"
    assert record["receivedAt"].startswith("2024-11-23" if "requestId" in facts else "20")


def test_a_record_table_that_stays_down_is_answered_without_details(workflow: Workflow) -> None:
    throttle(workflow.aws, SAVE_RECORD)

    execution = workflow.run(from_api("paid"))

    assert execution.states == [*SAVED, *FAILED]
    assert_internal_error(execution)
    assert workflow.records == []
    assert workflow.dispatched == []
    (error,) = workflow.errors
    assert (error["step"], error["error"]) == ("SaveCallbackRecord", "ServiceUnavailable")
    assert (error["orderId"], error["chargeId"]) == ("482500007436", "pay_bankapp_123")
    assert json.loads(error["event"]) == from_api("paid")
    assert len(workflow.mails) == len(workflow.sentry.events) == 1


def test_a_write_of_the_record_that_fails_once_is_repeated(workflow: Workflow) -> None:
    workflow.aws.refuse(SAVE_RECORD, "ProvisionedThroughputExceededException", times=1)

    execution = workflow.run(from_api("paid"))

    assert execution.states == PAID
    assert execution.answer[0] == 200
    assert execution.attempts["SaveCallbackRecord"] == 1
    assert len(workflow.records) == len(workflow.dispatched) == 1


def test_a_write_of_the_record_whose_answer_is_lost_leaves_one_record(workflow: Workflow) -> None:
    workflow.aws.lose_answer(SAVE_RECORD, times=1)

    execution = workflow.run(from_api("paid"))

    assert execution.answer[0] == 200
    assert execution.attempts["SaveCallbackRecord"] == 1
    assert len(workflow.records) == len(workflow.dispatched) == 1


def test_a_write_of_the_record_that_no_retry_can_cure_is_made_once(workflow: Workflow) -> None:
    workflow.aws.refuse(SAVE_RECORD, "ResourceNotFoundException")

    execution = workflow.run(from_api("paid"))

    assert_internal_error(execution)
    assert execution.attempts["SaveCallbackRecord"] == 1
    assert execution.waits == []
    assert [(error["step"], error["error"]) for error in workflow.errors] == [("SaveCallbackRecord", "PutError")]


def test_a_dispatch_that_is_confirmed_later_leaves_the_same_record(workflow: Workflow) -> None:
    workflow.run(from_api("paid"))
    workflow.aws.refuse(CONFIRM_DISPATCH, "InternalServerError", status=500, times=1)
    another = body_of("paid").replace("482500007436", "4825").replace("pay_bankapp_123", "pay_4")
    execution = workflow.run({**from_api("paid"), "body": another})

    assert execution.states == CONFIRMED_LATER
    its_own = {"orderId", "paymentId", "body", "executionArn"}
    confirmed, later = (
        {name: value for name, value in record.items() if name not in its_own} for record in workflow.records
    )
    assert later == confirmed


def erase_records(workflow: Workflow) -> None:
    for record in workflow.records:
        key = {name: {"S": record[name]} for name in ("orderId", "deliveryId")}
        client("dynamodb").delete_item(TableName=RECORD_TABLE, Key=key)


def test_a_record_that_is_erased_during_the_dispatch_stays_erased(workflow: Workflow) -> None:
    workflow.aws.run_after(INVOKE, lambda: erase_records(workflow), times=1)
    execution = workflow.run({"body": body_of("paid")})

    assert execution.answer[0] == 200
    assert execution.states == PAID
    assert workflow.records == []


def test_a_record_that_is_erased_before_it_is_confirmed_later_stays_erased(workflow: Workflow) -> None:
    workflow.run({"body": body_of("paid")})
    workflow.aws.run_after(CLAIM_PAYMENT, lambda: erase_records(workflow), times=1)
    execution = workflow.run({"body": body_of("paid")})

    assert execution.answer[0] == 200
    assert execution.states == CONFIRMED_LATER
    assert workflow.records == []


def test_a_payment_that_cannot_be_dispatched_is_a_recorded_failure(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", status=500)

    execution = workflow.run(from_api("paid"))

    assert execution.states == [*LOOKED_UP, "InvokeProcessPaid", *FAILED]
    assert_internal_error(execution)
    assert len(workflow.records) == 1
    (error,) = workflow.errors
    assert (error["step"], error["error"]) == ("InvokeProcessPaid", "ServiceUnavailable")
    assert (error["orderId"], error["chargeId"]) == ("482500007436", "pay_bankapp_123")


@pytest.mark.parametrize(
    ("failure", "step"),
    [(SAVE_RECORD, "SaveCallbackRecord"), (INVOKE, "InvokeProcessPaid")],
)
def test_an_answer_reveals_nothing_of_the_account(workflow: Workflow, failure: Call, step: str) -> None:
    workflow.aws.refuse(failure, "AccessDeniedException")

    execution = workflow.run(from_api("paid"))

    assert step in execution.states
    for secret in ("arn:", "123456789012", "Traceback", "stackTrace", ".py", "AccessDenied", "payment3-"):
        assert secret not in execution.output["body"]


def break_sentry(workflow: Workflow) -> None:
    workflow.sentry.status = 503


BreakService = Callable[[Workflow], None]
BREAK_REPORT: dict[str, BreakService] = {
    "WriteErrorLog": lambda workflow: throttle(workflow.aws, SAVE_ERROR),
    "ReportToSentry": break_sentry,
    "SendErrorEmail": lambda workflow: throttle(workflow.aws, SEND_MAIL),
}
REPORT_FAILED = {"WriteErrorLog": "DeliveryParked", "ReportToSentry": "SentryFailed", "SendErrorEmail": "EmailFailed"}


@pytest.mark.parametrize("broken", BREAK_REPORT)
def test_a_report_that_fails_says_why_and_affects_no_other(workflow: Workflow, broken: str) -> None:
    BREAK_REPORT[broken](workflow)

    execution = workflow.run({"body": body_of("missing-fields")})

    made = {
        "WriteErrorLog": len(workflow.errors),
        "ReportToSentry": len(workflow.sentry.events),
        "SendErrorEmail": len(workflow.mails),
    }
    assert made == {report: 0 if report == broken else 1 for report in BREAK_REPORT}
    assert REPORT_FAILED[broken] in execution.states
    if broken == "WriteErrorLog":
        assert execution.states[-1] == "FailParked"
        return
    assert {"reported": False, "error": "ServiceUnavailable"} in execution.reports
    assert execution.answer == (
        500,
        {"success": False, "error": OUTCOMES["missing-fields"].refusal, "message": FAILURE_MESSAGE},
    )


LAMBDA_ERRORS = [
    "ClientExecutionTimeoutException",
    "ServiceException",
    "AWSLambdaException",
    "SdkClientException",
    "TooManyRequestsException",
]
THROTTLED = lambda_error("TooManyRequestsException", 429)


# Which errors each state's Retry names is checked in test_budget.
@pytest.mark.parametrize(
    ("state", "fault"),
    [
        *(pytest.param("InvokeProcessPaid", lambda_error(code), id=code) for code in LAMBDA_ERRORS),
        pytest.param("InvokeProcessPaid", PROCESS_DIED, id="out of memory"),
        *(
            pytest.param(state, THROTTLED, id=f"{state}: throttled")
            for state in ("ValidateCallback", "SaveCallbackRecord", "ReportToSentry", "SendErrorEmail")
        ),
    ],
)
def test_an_invocation_that_fails_once_is_repeated(workflow: Workflow, state: str, fault: Fault) -> None:
    workflow.functions.fail(state, fault, times=1)

    execution = workflow.run({"body": body_of("missing-fields" if state in BREAK_REPORT else "paid")})

    assert execution.attempts[state] == 2
    assert execution.waits == [1]
    assert execution.states == (INVALID if state in BREAK_REPORT else PAID)


# The pauses before each state's retries, without jitter.
WAITS = {
    "ValidateCallback": [],
    "SaveCallbackRecord": [],
    "InvokeProcessPaid": [1],
    "WriteErrorLog": [],
    "ReportToSentry": [],
    "SendErrorEmail": [],
}


@pytest.mark.parametrize("state", CALLBACK_TASKS)
def test_a_function_that_never_answers_is_retried_as_its_policy_says(workflow: Workflow, state: str) -> None:
    # The interpreter treats this as the state's timeout, without waiting for it.
    workflow.functions.fail(state, TimeoutError())

    execution = workflow.run({"body": body_of("missing-fields" if state in BREAK_REPORT else "paid")})

    assert execution.waits == WAITS[state]
    assert execution.attempts[state] == 1 + len(WAITS[state])
    assert execution.status == "FAILED" if state == "WriteErrorLog" else execution.answer[0] == 500
    if state in BREAK_REPORT:
        assert REPORT_FAILED[state] in execution.states
    else:
        assert_internal_error(execution)
        assert [(error["step"], error["error"]) for error in workflow.errors] == [(state, "States.Timeout")]


@pytest.mark.parametrize(
    ("state", "break_service"),
    [
        ("SaveCallbackRecord", lambda workflow: throttle(workflow.aws, SAVE_RECORD)),
        ("InvokeProcessPaid", lambda workflow: throttle(workflow.aws, INVOKE)),
        *BREAK_REPORT.items(),
    ],
)
def test_an_unavailable_service_is_retried_as_the_policy_says(
    workflow: Workflow, state: str, break_service: BreakService
) -> None:
    break_service(workflow)

    execution = workflow.run({"body": body_of("missing-fields" if state in BREAK_REPORT else "paid")})

    assert execution.waits == WAITS[state]
    assert execution.attempts[state] == 1 + len(WAITS[state])


BUG = {"errorType": "KeyError", "errorMessage": "'orderId'"}


# Neither our own error nor a transient one.
@pytest.mark.parametrize(
    ("state", "fault"),
    [
        *(pytest.param(state, BUG, id=f"{state}: bug") for state in CALLBACK_TASKS),
        pytest.param(
            "InvokeProcessPaid", lambda_error("AccessDeniedException", 403), id="InvokeProcessPaid: forbidden"
        ),
    ],
)
def test_an_unforeseen_error_is_not_retried_and_still_answered(workflow: Workflow, state: str, fault: Fault) -> None:
    workflow.functions.fail(state, fault)

    execution = workflow.run({"body": body_of("missing-fields" if state in BREAK_REPORT else "paid")})

    assert execution.attempts[state] == 1
    assert execution.waits == []
    if state == "WriteErrorLog":
        # Nothing keeps the failure but the queue, so the execution fails as a whole and the API answers 500.
        assert (execution.status, execution.states[-1]) == ("FAILED", "FailParked")
        return
    assert execution.answer[0] == 500
    if state not in BREAK_REPORT:
        assert_internal_error(execution)
        assert [error["step"] for error in workflow.errors] == [state]
        assert len(workflow.mails) == len(workflow.sentry.events) == 1


def test_text_of_every_kind_is_recorded_and_dispatched_unchanged(workflow: Workflow) -> None:
    body = body_of("text-of-all-kinds")
    assert "ชำระเงินสำเร็จ" in body
    assert "🎉" in body

    execution = workflow.run(from_api("text-of-all-kinds"))

    assert execution.answer[0] == 200
    assert [record["body"] for record in workflow.records] == [body]
    assert [payload for *_, payload in workflow.dispatched] == [body.encode()]


def test_text_of_every_kind_is_reported_unchanged(workflow: Workflow) -> None:
    throttle(workflow.aws, SAVE_RECORD)

    execution = workflow.run(from_api("text-of-all-kinds"))

    assert_internal_error(execution)
    (error,) = workflow.errors
    assert json.loads(error["event"]) == from_api("text-of-all-kinds")


def test_ids_in_thai_are_in_the_answer(workflow: Workflow) -> None:
    body = '{"orderId": "ใบสั่งซื้อ-๑ 🎉", "paymentId": "O\'Brien \\"1\\"", "success": true, "userId": "u"}'

    execution = workflow.run({"body": body})

    status, answer = execution.answer
    assert (status, answer["orderId"], answer["paymentId"]) == (200, "ใบสั่งซื้อ-๑ 🎉", 'O\'Brien "1"')


def test_the_largest_body_fits_between_the_states(workflow: Workflow) -> None:
    # Backslashes grow most: each is doubled every time the text is put into JSON.
    body = '{"orderId": "1", "paymentId": "2", "success": true, "userId": "3", "filler": "%s"}'
    body %= "\\\\" * ((8 * 1024 - len(body) + 2) // 2)
    assert 8 * 1024 - 2 < len(body) <= 8 * 1024

    execution = workflow.run({"body": body})

    assert execution.states == PAID
    assert [payload for *_, payload in workflow.dispatched] == [body.encode()]
