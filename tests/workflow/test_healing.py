"""Failed and lost deliveries are redriven, automatically or on an operator's request, and never dispatched twice."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

import redrive
import stacks
from callbacks.queues import Lane, lane_of, shard_of
from tests.outcomes import body_of
from tests.workflow.account import (
    CONFIRM_DISPATCH,
    INVOKE,
    PROCESS_DIED,
    SAVE_ERROR,
    SAVE_RECORD,
    START_CALLBACK,
    Call,
    Workflow,
    client,
    kill_process,
    lambda_error,
)
from tests.workflow.engine import Execution
from tests.workflow.genuine import create_tables, put_order
from tests.workflow.paths import CONFIRMED_LATER

SINCE = {"since": "2026-01-01T00:00Z"}
QUERY_UNDISPATCHED: Call = ("DynamoDB_20120810.Query", '"IndexName": "undispatched"')
RECEIVE_PARKED: Call = ("AmazonSQS.ReceiveMessage",)


def delivery(number: int = 1, **fields: Any) -> dict[str, Any]:
    """Return the input that the API builds from a paid callback; each number is another payment."""
    body = json.loads(body_of("paid")) | {"orderId": f"order-{number}", "paymentId": f"pay-{number}"} | fields
    return {
        "body": json.dumps(body),
        "requestId": f"request-{number}",
        "receivedAt": 1795341600000 + number,
        "sourceIp": "203.0.113.7",
    }


def fail_to_dispatch(workflow: Workflow, *numbers: int) -> None:
    """Deliver payments while Lambda refuses invocations."""
    for number in numbers:
        workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=2)
        assert workflow.run(delivery(number)).answer[0] == 500
    assert workflow.dispatched == []


def rules_of(workflow: Workflow) -> dict[str, Any]:
    """Return the rules that ValidateCallback follows, to be replaced by older ones."""
    rules: dict[str, Any] = workflow.functions.module_global("ValidateCallback", "model").RULES
    return rules


def results(execution: Execution) -> dict[str, tuple[str, str]]:
    assert execution.status == "SUCCEEDED"
    return {
        result["requestId"]: (result["status"], result["lastResult"]) for result in execution.output.get("results", [])
    }


def status_of(workflow: Workflow) -> dict[str, tuple[str, int]]:
    return {row["requestId"]: (row["status"], int(row["attempts"])) for row in workflow.errors}


def paid_orders(workflow: Workflow) -> list[str]:
    return [json.loads(payload)["orderId"] for _, _, payload in workflow.dispatched]


def test_the_next_run_dispatches_a_payment_whose_dispatch_failed(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    healing = workflow.heal()

    assert results(healing) == {"request-1": ("resolved", "200 BankApp callback recorded")}
    assert [payload.decode() for _, _, payload in workflow.dispatched] == [delivery(1)["body"]]
    assert status_of(workflow) == {"request-1": ("resolved", 1)}
    assert "queue" not in workflow.errors[0]
    (record,) = workflow.records
    assert record["dispatchedBy"] == record["deliveryId"] == "2026-11-22T10:00:00.001Z#request-1"
    assert "undispatchedSince" not in record


def test_a_resolved_failure_is_left_alone(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.heal()
    workflow.pass_time()

    assert results(workflow.heal()) == results(workflow.heal(requestId="request-1")) == {}
    assert len(workflow.dispatched) == 1


def test_a_delivery_that_could_not_be_recorded_is_recorded_and_dispatched(workflow: Workflow) -> None:
    workflow.aws.refuse(SAVE_RECORD, "InternalServerError", status=500, times=2)
    workflow.run(delivery(1))
    assert workflow.records == []
    workflow.heal()

    (record,) = workflow.records
    assert record["deliveryId"] == "2026-11-22T10:00:00.001Z#request-1"
    assert paid_orders(workflow) == ["order-1"]


def test_a_payment_delivered_again_before_healing_is_dispatched_once(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    again = delivery(1) | {"requestId": "request-1-again", "receivedAt": 1795341660000}
    assert workflow.run(again).answer[1]["duplicate"] is False
    healing = workflow.heal()

    assert results(healing)["request-1"][0] == "resolved"
    assert len(workflow.dispatched) == 1
    assert {record["dispatchedBy"] for record in workflow.records} == {"2026-11-22T10:01:00.000Z#request-1-again"}


def test_a_payment_with_an_unconfirmed_dispatch_is_found_and_logged(workflow: Workflow) -> None:
    workflow.aws.refuse(CONFIRM_DISPATCH, "ProvisionedThroughputExceededException", times=3)
    execution = workflow.run(delivery(1))
    assert execution.states == CONFIRMED_LATER
    assert execution.answer[0] == 200
    assert workflow.errors == []
    healing = workflow.heal()

    assert results(healing)["request-1"][0] == "resolved"
    assert len(workflow.dispatched) == 1
    (row,) = workflow.errors
    assert (row["error"], row["step"]) == ("DispatchUnconfirmed", "InvokeProcessPaid")
    assert "undispatchedSince" not in workflow.records[0]


def test_a_failure_that_could_be_neither_logged_nor_parked_is_found_by_its_record(workflow: Workflow) -> None:
    workflow.aws.refuse(SAVE_ERROR, "InternalServerError", status=500)
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=2)
    assert workflow.run(delivery(1)).status == "FAILED"
    workflow.purge_parked()
    assert workflow.errors == []
    workflow.recover()
    workflow.heal()

    assert status_of(workflow) == {"request-1": ("resolved", 1)}
    assert paid_orders(workflow) == ["order-1"]


def test_a_failure_that_persists_is_given_up_and_reported_once(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=99)
    workflow.run(delivery(1))
    seen = []
    for _ in range(9):
        workflow.heal()
        seen.append(status_of(workflow)["request-1"])
        workflow.pass_time(minutes=24 * 60)

    assert seen == [*(("open", attempt) for attempt in range(1, 8)), ("given up", 8), ("given up", 8)]
    assert [mail.subject for mail in workflow.mails] == [
        "[test] BankApp callback: ServiceUnavailable",
        "[test] BankApp callback: GivenUp",
    ]
    (event,) = [event for event in workflow.sentry.events if event["fingerprint"][-1] == "GivenUp"]
    assert event["exception"]["values"][0]["value"].startswith("Redriven 8 times, last result: 500 Internal error")
    assert event["tags"]["orderId"] == "order-1"


def test_an_operator_can_redrive_a_failure_that_was_given_up(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=18)
    workflow.run(delivery(1))
    for _ in range(8):
        workflow.heal()
    assert status_of(workflow) == {"request-1": ("given up", 8)}
    healing = workflow.heal(requestId="request-1")

    assert results(healing)["request-1"][0] == "resolved"
    assert paid_orders(workflow) == ["order-1"]


def test_a_refused_callback_waits_for_an_operator(workflow: Workflow) -> None:
    workflow.run(delivery(1))
    workflow.run(delivery(2, orderId="order-1", paymentId="pay-1", amount=1))
    workflow.run(delivery(3, userId=None))
    assert {row["error"] for row in workflow.errors} == {"PaymentConflict", "InvalidCallback"}

    assert results(workflow.heal()) == {}
    assert status_of(workflow) == {"request-2": ("open", 0), "request-3": ("open", 0)}

    by_hand = workflow.heal(requestId="request-3")
    assert results(by_hand) == {"request-3": ("open", "500 userId: must be a string, not null")}
    assert {lane_of(row["queue"]) for row in workflow.errors} == {Lane.OPERATOR}
    assert len(workflow.dispatched) == 1


def test_a_payment_recorded_before_a_rule_forbade_its_id_waits_for_an_operator(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = "500 paymentId: must not begin or end with a blank"
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=2)
    with monkeypatch.context() as before:
        before.setitem(rules_of(workflow), "paymentId", lambda _: None)
        workflow.run(delivery(1, paymentId=" pay-1"))
    assert [row["error"] for row in workflow.errors] == ["ServiceUnavailable"]

    assert results(workflow.heal()) == {"request-1": ("open", refused)}
    workflow.pass_time()
    assert results(workflow.heal()) == {}
    assert status_of(workflow) == {"request-1": ("open", 1)}
    (row,) = workflow.errors
    assert (row["error"], json.loads(row["event"])) == ("InvalidCallback", delivery(1, paymentId=" pay-1"))
    assert [mail.subject.split()[-1] for mail in workflow.mails[-2:]] == ["InvalidCallback", "GivenUp"]
    assert len(workflow.records) == 1
    assert workflow.dispatched == []


def test_a_payment_refused_for_its_message_before_is_dispatched_by_a_redrive(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "m" * 1025
    with monkeypatch.context() as before:
        before.setitem(rules_of(workflow), "message", lambda _: "is longer than 1024 characters")
        workflow.run(delivery(1, message=message))
    assert [row["error"] for row in workflow.errors] == ["InvalidCallback"]

    assert results(workflow.heal(requestId="request-1"))["request-1"][0] == "resolved"
    assert [json.loads(payload)["message"] for _, _, payload in workflow.dispatched] == [message]
    assert [record["message"] for record in workflow.records] == [message[:-1]]


def test_a_large_callback_that_was_refused_is_not_redriven_without_its_body(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setitem(rules_of(workflow), "message", lambda _: "is not allowed")
        workflow.run(delivery(1, message="m"))
        workflow.run(delivery(2, message="m" * 4096))

    outcome = results(workflow.heal(since="2020-01-01T00:00:00Z", refused=True))
    assert outcome == {
        "request-1": ("resolved", "200 BankApp callback recorded"),
        "request-2": ("skipped", "body not kept"),
    }
    assert paid_orders(workflow) == ["order-1"]
    assert status_of(workflow) == {"request-1": ("resolved", 1), "request-2": ("open", 0)}


def test_an_operator_selects_one_delivery_one_order_or_a_time(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1, 2, 3)
    since = workflow.errors[0]["occurredAt"]

    assert set(results(workflow.heal(requestId="request-2", dryRun=False))) == {"request-2"}
    assert set(results(workflow.heal(orderId="order-3"))) == {"request-3"}
    assert set(results(workflow.heal(since=since))) == {"request-1"}
    assert sorted(paid_orders(workflow)) == ["order-1", "order-2", "order-3"]


@pytest.mark.parametrize(
    "selection", [{}, {"requestId": "request-1"}, {"orderId": "order-1"}, {"since": "2026-01-01T00:00Z"}]
)
def test_a_dry_run_lists_and_changes_nothing(workflow: Workflow, selection: dict[str, str]) -> None:
    fail_to_dispatch(workflow, 1)
    before = workflow.errors, workflow.records
    healing = workflow.heal(dryRun=True, **selection)

    assert [failure["requestId"] for failure in healing.output["found"]["failures"]] == ["request-1"]
    # No results, and nothing of the input.
    assert healing.output.keys() == {"taken", "collected", "found"}
    assert (workflow.errors, workflow.records) == before
    assert workflow.dispatched == []


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"order": "order-1"}, "order: is unknown"),
        ({"orderId": ""}, "orderId: must be a non-empty string"),
        ({"since": "yesterday"}, "since: must be a time"),
        ({"requestId": "1", "orderId": "1"}, "Give only one of"),
    ],
)
def test_an_invalid_selection_redrives_nothing(workflow: Workflow, selection: dict[str, str], message: str) -> None:
    fail_to_dispatch(workflow, 1)
    healing = workflow.heal(**selection)

    assert healing.status == "FAILED"
    assert workflow.dispatched == []
    with pytest.raises(stacks.StackError, match=message):
        redrive.redrive(client("stepfunctions"), workflow.healing_arn, selection)


@pytest.mark.parametrize("selection", [{}, SINCE], ids=["by the schedule", "by an operator"])
@pytest.mark.parametrize(
    ("call", "end"),
    [(QUERY_UNDISPATCHED, "CollectionFailed"), (RECEIVE_PARKED, "TakingFailed")],
    ids=["lost", "parked"],
)
def test_a_run_that_cannot_look_everywhere_heals_the_rest_and_fails(
    workflow: Workflow, call: Call, end: str, selection: dict[str, str]
) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.aws.refuse(call, "ValidationException")
    healing = workflow.heal(**selection)

    assert healing.status == "FAILED"
    assert healing.states[-1] == end
    assert paid_orders(workflow) == ["order-1"]


def test_a_run_that_finds_nothing_passes_few_states(workflow: Workflow) -> None:
    assert workflow.heal().states == [
        "WhichRun?",
        "ReportSuppressed",
        "TakeParked",
        "CollectUndispatched",
        "FindFailures",
        "IsAnyRedriven?",
        "Healed",
    ]


def test_the_claims_of_a_run_that_dies_expire(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.functions.fail("SettleFailure", PROCESS_DIED, times=3)
    left = workflow.heal()
    assert results(left)["request-1"][0] == "left for the next run"
    assert results(workflow.heal()) == {}
    workflow.pass_time()

    assert results(workflow.heal())["request-1"][0] == "resolved"
    assert len(workflow.dispatched) == 1


def test_a_failure_that_cannot_be_claimed_stops_no_other(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1, 2)
    workflow.functions.fail("ClaimFailure", {"errorType": "KeyError", "errorMessage": "'event'"}, times=1)

    healed = results(workflow.heal())
    assert sorted(status for status, _ in healed.values()) == ["left for the next run", "resolved"]
    assert len(workflow.dispatched) == 1


def test_a_callback_execution_that_is_aborted_is_a_failed_attempt(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.functions.run_after("SaveCallbackRecord", workflow.abort_callback)

    assert results(workflow.heal()) == {"request-1": ("open", "ABORTED")}
    assert results(workflow.heal())["request-1"][0] == "resolved"
    assert paid_orders(workflow) == ["order-1"]


@pytest.mark.parametrize("lost", ["ClaimFailure", "SettleFailure"])
def test_a_last_attempt_without_an_outcome_is_given_up_and_reported(workflow: Workflow, lost: str) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=99)
    workflow.run(delivery(1))
    for _ in range(7):
        workflow.heal()
    assert status_of(workflow) == {"request-1": ("open", 7)}
    workflow.functions.run_after(lost, kill_process)
    workflow.functions.fail("SettleFailure", PROCESS_DIED, times=3)
    assert results(workflow.heal())["request-1"][0] in {"left for the next run", "skipped"}
    assert status_of(workflow) == {"request-1": ("redriven", 8)}
    workflow.functions.recover()
    workflow.pass_time()

    # It is reported even if that takes a second run.
    workflow.functions.fail("SettleFailure", PROCESS_DIED, times=3)
    assert results(workflow.heal())["request-1"][0] == "left for the next run"
    workflow.pass_time()
    assert results(workflow.heal()) == {"request-1": ("given up", "The last attempt left no result")}
    assert status_of(workflow) == {"request-1": ("given up", 8)}
    assert [mail.subject for mail in workflow.mails][1:] == ["[test] BankApp callback: GivenUp"]
    assert results(workflow.heal()) == {}


def test_all_that_one_run_gives_up_is_one_mail(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", status=500, times=999)
    for number in range(1, 5):
        workflow.run(delivery(number))
    for _ in range(8):
        workflow.heal()

    assert set(status_of(workflow).values()) == {("given up", 8)}
    assert [mail.subject for mail in workflow.mails][1:] == ["[test] BankApp callback: GivenUp"]


def test_one_run_redrives_page_after_page_until_nothing_is_due(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = workflow.functions.module_global("FindFailures", "_is_over")
    monkeypatch.setitem(is_over.__globals__, "RUN_TIME", timedelta(minutes=1))
    pace = workflow.functions.module_global("FindFailures", "pace")
    monkeypatch.setattr(pace, "FAILURES_PER_PLACE", 1)
    monkeypatch.setattr(pace, "FIRST_CONCURRENCY", 2)
    one_shard = [number for number in range(1, 99) if shard_of("BankApp", f"request-{number}") == "BankApp#0"]
    fail_to_dispatch(workflow, *one_shard[:5])
    healing = workflow.heal()

    # The oldest and the newest of the shard, then the next two, then the last one.
    assert healing.states.count("RedriveEach") == 3
    assert healing.output["found"]["tally"] == {"redriven": 5, "failed": 0}
    assert [status for status, _ in status_of(workflow).values()] == ["resolved"] * 5
    assert sorted(paid_orders(workflow)) == sorted(f"order-{number}" for number in one_shard[:5])


def test_a_delivery_too_large_to_redrive_is_given_up_and_stops_no_other(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.functions.fail("ValidateCallback", lambda_error("ServiceException"), times=1)
    large = delivery(2)
    large |= {"body": large["body"] + "\u0e01" * 32_700, "headers": {"user-agent": '"' * 9_000}}
    assert workflow.run(large).answer[0] == 500

    too_large = ("given up", "The delivery is too large to redrive")
    assert results(workflow.heal()) == {
        "request-1": ("resolved", "200 BankApp callback recorded"),
        "request-2": too_large,
    }
    assert [mail.subject for mail in workflow.mails][-1] == "[test] BankApp callback: GivenUp"
    assert "order-2" in workflow.mails[-1].body
    assert results(workflow.heal()) == {}
    assert results(workflow.heal(requestId="request-2")) == {"request-2": too_large}


def test_a_lost_payment_too_large_to_redrive_is_reported(workflow: Workflow) -> None:
    workflow.functions.run_after("SaveCallbackRecord", workflow.abort_callback)
    # Only an operator can start such an execution: the API cuts bodies and headers.
    workflow.run(delivery(1) | {"headers": {"webhook-id": "\\" * 30_000}})
    assert len(workflow.records) == 1

    assert results(workflow.heal())["request-1"][0] == "given up"
    assert [mail.subject for mail in workflow.mails] == ["[test] BankApp callback: GivenUp"]


def test_a_refusal_that_an_operator_has_resolved_is_healed_completely(workflow: Workflow) -> None:
    create_tables()
    put_order(orderId="order-1", total=1)
    workflow.deploy(CrossCheckMode="enforce")
    workflow.run(delivery(1))
    assert [row["error"] for row in workflow.errors] == ["PaymentMismatch"]
    put_order(orderId="order-1")
    workflow.aws.refuse(CONFIRM_DISPATCH, "InternalServerError", status=500)
    assert results(workflow.heal(requestId="request-1"))["request-1"][0] == "open"
    workflow.aws.recover()

    assert results(workflow.heal())["request-1"][0] == "resolved"
    assert "dispatchedBy" in workflow.records[0]
    assert paid_orders(workflow) == ["order-1"]


def test_a_callback_execution_that_cannot_start_is_no_attempt(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.aws.refuse(START_CALLBACK, "ThrottlingException", times=1)
    # An operator hears of it from the alarm on healing.
    assert workflow.heal().status == "FAILED"
    assert [row["lastResult"] for row in workflow.errors] == ["Sfn.SfnException"]
    assert status_of(workflow) == {"request-1": ("open", 0)}
    workflow.pass_time()

    assert results(workflow.heal())["request-1"][0] == "resolved"
    assert status_of(workflow) == {"request-1": ("resolved", 1)}


def test_two_parallel_runs_redrive_each_delivery_once(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, *range(1, 7))
    with ThreadPoolExecutor(2) as pool:
        runs = [results(run) for run in pool.map(lambda _: workflow.heal(), range(2))]

    resolved = [request for run in runs for request, (status, _) in run.items() if status == "resolved"]
    assert sorted(resolved) == [f"request-{number}" for number in range(1, 7)]
    assert sorted(paid_orders(workflow)) == [f"order-{number}" for number in range(1, 7)]


def run_command(workflow: Workflow, **selection: Any) -> int:
    return redrive.redrive(client("stepfunctions"), workflow.healing_arn, selection)


def test_the_command_goes_through_all_pages_and_prints_a_total(
    workflow: Workflow, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_to_dispatch(workflow, *range(1, 6))
    since = workflow.errors[0]["occurredAt"]
    capsys.readouterr()

    assert run_command(workflow, since=since, limit=2, dryRun=True) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 would be redriven: 5 open"
    assert run_command(workflow, since=since, limit=2) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]
    assert lines[-2:] == ["Refused callbacks are left out; --refused includes them.", "5 redriven: 5 resolved"]
    assert sorted(line.split()[2] for line in lines[:-2]) == [f"order-{number}" for number in range(1, 6)]
    assert run_command(workflow, since=since) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Nothing to redrive."


def test_the_command_fails_if_a_delivery_does(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    workflow.run(delivery(1, userId=None))
    assert run_command(workflow, orderId="order-1") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 redriven: 1 open"
