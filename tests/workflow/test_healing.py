"""What failed or got lost is run again: by itself or at a person's word, and without being dispatched twice."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import redrive
from tests.outcomes import body_of
from tests.workflow.account import (
    INVOKE,
    PROCESS_DIED,
    SAVE_ERROR,
    SAVE_RECORD,
    START_CALLBACK,
    Workflow,
    client,
    kill_process,
    lambda_error,
)
from tests.workflow.genuine import create_tables, put_order
from tests.workflow.paths import PAID

QUERY_UNDISPATCHED = ("DynamoDB_20120810.Query", '"IndexName": "undispatched"')
CONFIRM = ("UpdateItem", "dispatchedBy")


def delivery(number: int = 1, **fields: Any) -> dict[str, Any]:
    """What the API makes of a paid callback; each number is a payment of its own."""
    body = json.loads(body_of("paid")) | {"orderId": f"order-{number}", "paymentId": f"pay-{number}"} | fields
    return {
        "body": json.dumps(body),
        "requestId": f"request-{number}",
        "receivedAt": 1795341600000 + number,
        "sourceIp": "203.0.113.7",
    }


def fail_to_dispatch(workflow: Workflow, *numbers: int) -> None:
    """Deliver payments while Lambda takes no invoke."""
    for number in numbers:
        workflow.wire.refuse(INVOKE, "ServiceException", status=500, times=2)
        assert workflow.run(delivery(number)).answer[0] == 500
    assert workflow.processed == []


def results(execution: Any) -> dict[str, tuple[str, str]]:
    assert execution.status == "SUCCEEDED"
    return {result["requestId"]: (result["status"], result["lastResult"]) for result in execution.output["results"]}


def status_of(workflow: Workflow) -> dict[str, tuple[str, int]]:
    return {row["requestId"]: (row["status"], int(row["attempts"])) for row in workflow.errors}


def paid_orders(workflow: Workflow) -> list[str]:
    return [json.loads(payload)["orderId"] for _, _, payload in workflow.processed]


def test_a_payment_whose_dispatch_failed_is_dispatched_by_the_next_run(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    healing = workflow.heal()

    assert results(healing) == {"request-1": ("resolved", "200 BankApp callback recorded")}
    assert [payload.decode() for _, _, payload in workflow.processed] == [delivery(1)["body"]]
    assert status_of(workflow) == {"request-1": ("resolved", 1)}
    assert "nextAttemptAt" not in workflow.errors[0]
    (record,) = workflow.records
    assert record["dispatchedBy"] == record["deliveryId"] == "2026-11-22T10:00:00.001Z#request-1"
    assert "undispatchedSince" not in record


def test_what_is_resolved_is_left_alone(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.heal()
    workflow.pass_time()

    assert results(workflow.heal()) == results(workflow.heal(requestId="request-1")) == {}
    assert len(workflow.processed) == 1


def test_a_delivery_that_could_not_be_recorded_is_recorded_and_dispatched(workflow: Workflow) -> None:
    workflow.wire.refuse(SAVE_RECORD, "InternalServerError", status=500, times=2)
    workflow.run(delivery(1))
    assert workflow.records == []
    workflow.heal()

    (record,) = workflow.records
    assert record["deliveryId"] == "2026-11-22T10:00:00.001Z#request-1"
    assert paid_orders(workflow) == ["order-1"]


def test_a_payment_that_came_again_meanwhile_is_not_dispatched_twice(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    again = delivery(1) | {"requestId": "request-1-again", "receivedAt": 1795341660000}
    assert workflow.run(again).answer[1]["duplicate"] is False
    healing = workflow.heal()

    assert results(healing)["request-1"][0] == "resolved"
    assert len(workflow.processed) == 1
    assert {record["dispatchedBy"] for record in workflow.records} == {"2026-11-22T10:01:00.000Z#request-1-again"}


def test_a_payment_that_nobody_knows_to_be_dispatched_is_found_and_shown(workflow: Workflow) -> None:
    workflow.wire.refuse(CONFIRM, "ProvisionedThroughputExceededException", times=2)
    execution = workflow.run(delivery(1))
    assert execution.states == PAID
    assert execution.answer[0] == 200
    assert workflow.errors == []
    healing = workflow.heal()

    assert results(healing)["request-1"][0] == "resolved"
    assert len(workflow.processed) == 1
    (row,) = workflow.errors
    assert (row["error"], row["step"]) == ("DispatchUnconfirmed", "ConfirmDispatch")
    assert "undispatchedSince" not in workflow.records[0]


def test_a_failure_that_nobody_could_write_down_is_found_by_its_record(workflow: Workflow) -> None:
    workflow.wire.refuse(SAVE_ERROR, "InternalServerError", status=500)
    fail_to_dispatch(workflow, 1)
    assert workflow.errors == []
    workflow.recover()
    workflow.heal()

    assert status_of(workflow) == {"request-1": ("resolved", 1)}
    assert paid_orders(workflow) == ["order-1"]


def test_what_fails_again_and_again_is_given_up_and_reported_once(workflow: Workflow) -> None:
    workflow.wire.refuse(INVOKE, "ServiceException", status=500, times=99)
    workflow.run(delivery(1))
    seen = []
    for _ in range(9):
        workflow.heal()
        seen.append(status_of(workflow)["request-1"])
        workflow.pass_time(minutes=24 * 60)

    assert seen == [*(("open", attempt) for attempt in range(1, 8)), ("given up", 8), ("given up", 8)]
    assert [mail.subject for mail in workflow.mails] == [
        "[test] BankApp callback failed: ServiceUnavailable",
        "[test] BankApp callback failed: GivenUp",
    ]
    (event,) = [event for event in workflow.sentry.events if event["fingerprint"][-1] == "GivenUp"]
    assert event["exception"]["values"][0]["value"].startswith("Redriven 8 times, last result: 500 Internal error")
    assert event["tags"]["orderId"] == "order-1"


def test_a_person_can_run_again_what_was_given_up(workflow: Workflow) -> None:
    workflow.wire.refuse(INVOKE, "ServiceException", status=500, times=18)
    workflow.run(delivery(1))
    for _ in range(8):
        workflow.heal()
    assert status_of(workflow) == {"request-1": ("given up", 8)}
    healing = workflow.heal(requestId="request-1")

    assert results(healing)["request-1"][0] == "resolved"
    assert paid_orders(workflow) == ["order-1"]


def test_what_is_wrong_with_the_callback_waits_for_a_person(workflow: Workflow) -> None:
    workflow.run(delivery(1))
    workflow.run(delivery(2, orderId="order-1", paymentId="pay-1", amount=1))
    workflow.run(delivery(3, userId=None))
    assert {row["error"] for row in workflow.errors} == {"PaymentConflict", "InvalidCallback"}

    assert results(workflow.heal()) == {}
    assert status_of(workflow) == {"request-2": ("open", 0), "request-3": ("open", 0)}

    by_hand = workflow.heal(requestId="request-3")
    assert results(by_hand) == {"request-3": ("open", "500 userId: must be a string, not null")}
    assert "nextAttemptAt" not in str(workflow.errors)
    assert len(workflow.processed) == 1


def test_a_person_names_one_delivery_one_order_or_a_time(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1, 2, 3)
    since = workflow.errors[0]["occurredAt"]

    assert set(results(workflow.heal(requestId="request-2"))) == {"request-2"}
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
    assert "results" not in healing.output
    assert (workflow.errors, workflow.records) == before
    assert workflow.processed == []


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"order": "order-1"}, "order: is unknown"),
        ({"orderId": ""}, "orderId: must be a non-empty string"),
        ({"since": "yesterday"}, "since: must be a time"),
        ({"requestId": "1", "orderId": "1"}, "Give only one of"),
    ],
)
def test_a_selection_that_is_not_understood_runs_nothing(
    workflow: Workflow, selection: dict[str, str], message: str
) -> None:
    fail_to_dispatch(workflow, 1)
    healing = workflow.heal(**selection)

    assert healing.status == "FAILED"
    assert workflow.processed == []
    with pytest.raises(redrive.RedriveError, match=message):
        redrive.redrive(client("stepfunctions"), workflow.healing_arn, selection)


def test_where_lost_payments_cannot_be_looked_for_the_rest_is_healed_and_the_execution_fails(
    workflow: Workflow,
) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.wire.refuse(QUERY_UNDISPATCHED, "ValidationException")
    healing = workflow.heal()

    assert healing.status == "FAILED"
    assert healing.states[-1] == "CollectionFailed"
    assert paid_orders(workflow) == ["order-1"]


def test_a_run_that_dies_gives_its_claims_back_by_time(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.functions.fail("SettleFailure", PROCESS_DIED, times=1)
    left = workflow.heal()
    assert results(left)["request-1"][0] == "left for the next run"
    assert results(workflow.heal()) == {}
    workflow.pass_time()

    assert results(workflow.heal())["request-1"][0] == "resolved"
    assert len(workflow.processed) == 1


def test_an_execution_that_fails_as_a_whole_is_an_attempt_that_failed(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.functions.end_with("SaveCallbackRecord", workflow.lose_callback)

    assert results(workflow.heal()) == {"request-1": ("open", "ABORTED")}
    assert results(workflow.heal())["request-1"][0] == "resolved"
    assert paid_orders(workflow) == ["order-1"]


@pytest.mark.parametrize("lost", ["ClaimFailure", "SettleFailure"])
def test_a_last_attempt_that_leaves_no_result_is_given_up_and_reported(workflow: Workflow, lost: str) -> None:
    workflow.wire.refuse(INVOKE, "ServiceException", status=500, times=99)
    workflow.run(delivery(1))
    for _ in range(7):
        workflow.heal()
    assert status_of(workflow) == {"request-1": ("open", 7)}
    workflow.functions.end_with(lost, kill_process)
    workflow.functions.fail("SettleFailure", PROCESS_DIED, times=1)
    assert results(workflow.heal())["request-1"][0] in {"left for the next run", "skipped"}
    assert status_of(workflow) == {"request-1": ("redriven", 8)}
    workflow.functions.recover()
    workflow.pass_time()

    # The end is told, too, where it does not succeed at once.
    workflow.functions.fail("SettleFailure", PROCESS_DIED, times=1)
    assert results(workflow.heal())["request-1"][0] == "left for the next run"
    workflow.pass_time()
    assert results(workflow.heal()) == {"request-1": ("given up", "The last attempt left no result")}
    assert status_of(workflow) == {"request-1": ("given up", 8)}
    assert [mail.subject for mail in workflow.mails][1:] == ["[test] BankApp callback failed: GivenUp"]
    assert results(workflow.heal()) == {}


def test_what_is_given_up_in_one_run_is_one_mail(workflow: Workflow) -> None:
    workflow.wire.refuse(INVOKE, "ServiceException", status=500, times=999)
    for number in range(1, 5):
        workflow.run(delivery(number))
    for _ in range(8):
        workflow.heal()

    assert set(status_of(workflow).values()) == {("given up", 8)}
    assert [mail.subject for mail in workflow.mails][1:] == ["[test] BankApp callback failed: GivenUp"]


def test_more_than_a_page_is_run_again_at_once(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    selection = workflow.functions.imported_by("FindFailures", "Selection")
    monkeypatch.setitem(selection.from_event.__globals__, "MAX_FAILURES", 2)
    fail_to_dispatch(workflow, *range(1, 6))
    healing = workflow.heal()

    assert healing.states.count("FindFailures") == 2
    assert sorted(status_of(workflow).values()) == [("open", 0), *[("resolved", 1)] * 4]
    workflow.heal()
    assert sorted(paid_orders(workflow)) == [f"order-{number}" for number in range(1, 6)]


def test_a_delivery_that_is_too_large_to_be_run_again_is_given_up_and_stops_nobody_else(workflow: Workflow) -> None:
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
    assert [mail.subject for mail in workflow.mails][-1] == "[test] BankApp callback failed: GivenUp"
    assert "order-2" in workflow.mails[-1].body
    assert results(workflow.heal()) == {}
    assert results(workflow.heal(requestId="request-2")) == {"request-2": too_large}


def test_a_lost_payment_that_is_too_large_to_be_run_again_is_told_of(workflow: Workflow) -> None:
    workflow.functions.end_with("SaveCallbackRecord", workflow.lose_callback)
    workflow.run(delivery(1, note="\\" * 14_000))
    assert len(workflow.records) == 1

    assert results(workflow.heal())["request-1"][0] == "given up"
    assert [mail.subject for mail in workflow.mails] == ["[test] BankApp callback failed: GivenUp"]


def test_a_refusal_that_a_person_has_mended_is_healed_to_the_end(workflow: Workflow) -> None:
    create_tables()
    put_order(orderId="order-1", total=1)
    workflow.deploy(CrossCheckMode="enforce")
    workflow.run(delivery(1))
    assert [row["error"] for row in workflow.errors] == ["PaymentMismatch"]
    put_order(orderId="order-1")
    workflow.wire.refuse(CONFIRM, "InternalServerError", status=500)
    assert results(workflow.heal(requestId="request-1"))["request-1"][0] == "open"
    workflow.wire.recover()

    assert results(workflow.heal())["request-1"][0] == "resolved"
    assert "dispatchedBy" in workflow.records[0]
    assert paid_orders(workflow) == ["order-1"]


def test_a_callback_execution_that_cannot_be_started_is_an_attempt_that_failed(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, 1)
    workflow.wire.refuse(START_CALLBACK, "ThrottlingException", times=1)
    assert results(workflow.heal())["request-1"][0] == "open"
    assert status_of(workflow) == {"request-1": ("open", 1)}

    assert results(workflow.heal())["request-1"][0] == "resolved"


def test_two_runs_at_once_run_each_delivery_once(workflow: Workflow) -> None:
    fail_to_dispatch(workflow, *range(1, 7))
    with ThreadPoolExecutor(2) as pool:
        runs = [results(run) for run in pool.map(lambda _: workflow.heal(), range(2))]

    resolved = [request for run in runs for request, (status, _) in run.items() if status == "resolved"]
    assert sorted(resolved) == [f"request-{number}" for number in range(1, 7)]
    assert sorted(paid_orders(workflow)) == [f"order-{number}" for number in range(1, 7)]


def run_command(workflow: Workflow, **selection: Any) -> int:
    return redrive.redrive(client("stepfunctions"), workflow.healing_arn, selection)


def test_the_command_goes_through_all_pages_and_sums_up(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(redrive, "POLL_SECONDS", 0.01)
    fail_to_dispatch(workflow, *range(1, 6))
    since = workflow.errors[0]["occurredAt"]
    capsys.readouterr()

    assert run_command(workflow, since=since, limit=2, dryRun=True) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 would be run again: 5 open"
    assert run_command(workflow, since=since, limit=2) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]
    assert lines[-1] == "5 run again: 5 resolved"
    assert sorted(line.split()[2] for line in lines[:-1]) == [f"order-{number}" for number in range(1, 6)]
    assert run_command(workflow, since=since) == 0
    assert capsys.readouterr().out == "Nothing to run again.\n"


def test_the_command_fails_where_a_delivery_does(workflow: Workflow, capsys: pytest.CaptureFixture[str]) -> None:
    workflow.run(delivery(1, userId=None))
    assert run_command(workflow, orderId="order-1") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 run again: 1 open"
