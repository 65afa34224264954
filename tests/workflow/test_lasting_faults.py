"""Faults that last until healing has run to its last attempt, and what an operator can do once they end.

However often a fault repeats itself, a payment is dispatched as often as promised and no more; and it is dispatched, or
an operator was told. In the ordinary run every second call has one of the faults, in turn; the exhaustive run adds the
others.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import pytest
from botocore import endpoint
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl

from callbacks.queues import AUTOMATIC, Lane, lane_of
from tests.workflow import account, faults
from tests.workflow.account import CLAIM_PAYMENT, INVOKE, PROMISED, RealClock, Workflow, client
from tests.workflow.engine import Execution
from tests.workflow.faults import CONFIRM, CONFIRM_AGAIN, DELIVERY, DISPATCH, FINISH, PATHS, REPORT, Call
from tests.workflow.genuine import create_tables, delivery, forget_secrets, put_order, put_secret

# A process is killed right after each call. If Step Functions makes the call itself, its whole execution is aborted.
FAULTS = ("every answer lost", "always killed", "slow")
# More often than a payment may be repeated, and less often than in the template, so that a test is quick.
REDRIVES = PROMISED + 2

# For each call and fault: the HTTP answer, the number of calls of process-paid, what becomes of the payment while the
# fault lasts, and by which way operators were told. See docs/guarantees.md.
Row = tuple[str, str, str]
REFUSED: Row = ("500 · 0 · given up · told", "500 · 0 · given up · told", "200 · 1 · dispatched")
REFUSED_AGAIN: Row = (*REFUSED[:2], "500 · 1 · dispatched · told")
NOT_SENT: Row = ("500 · 0 · given up · told",) * 3
NOT_LOGGED: Row = ("500 · 0 · given up · told, alarm", "500 · 0 · given up · told, alarm", "500 · 0 · given up · told")
# A healing run that redrives two failures and heals none is not a success.
ALARMED: Row = ("500 · 0 · given up · told, alarm",) * 3
HEALED: Row = ("500 · 1 · dispatched · told",) * 3
LEFT: Row = ("500 · 0 · waits · told", "500 · 0 · waits · told", "500 · 1 · dispatched · told")
UNSEEN: Row = ("500 · 0 · waits · alarm only", "500 · 0 · waits · alarm only", "500 · 1 · dispatched · alarm only")
TABLE: dict[str, dict[Call, Row]] = {
    "delivery": {
        faults.SAVE: REFUSED,
        faults.LOOK_UP: REFUSED,
        faults.CLAIM: REFUSED,
        # After a slow dispatch no time is left to look for contradictions.
        DISPATCH: ("500 · 2 · undecided · told", "500 · 2 · undecided · told", "200 · 1 · dispatched · told"),
        FINISH: ("200 · 1 · dispatched",) * 3,
        CONFIRM: ("200 · 1 · dispatched", "500 · 1 · given up · told", "200 · 1 · dispatched"),
        faults.FIND_PAYMENTS: ("200 · 1 · dispatched · told", "500 · 1 · given up · told", "200 · 1 · dispatched"),
        faults.FIND_ORDERS: ("200 · 1 · dispatched · told", "500 · 1 · given up · told", "200 · 1 · dispatched"),
        faults.EVERY_CALL: ("", "", "200 · 1 · dispatched · told"),
    },
    "unconfirmed delivery": {
        CONFIRM_AGAIN: ("200 · 1 · dispatched", "500 · 1 · dispatched · alarm only", "200 · 1 · dispatched"),
    },
    "checked delivery": {
        faults.READ_SECRET: REFUSED,
        faults.READ_ORDER: REFUSED,
        faults.READ_PAYMENT: REFUSED,
    },
    "failed delivery": {
        faults.RELEASE: NOT_SENT,
        faults.LOG: NOT_LOGGED,
        REPORT: NOT_SENT,
        faults.OPEN_WINDOW: (
            "500 · 0 · given up · told",
            "500 · 0 · given up · Sentry only",
            "500 · 0 · given up · told",
        ),
        faults.READ_WINDOW: ALARMED,
        faults.SEND: NOT_SENT,
        faults.CLOSE_WINDOW: ("500 · 0 · given up · Sentry only",) * 3,
        faults.COUNT_REPEAT: ALARMED,
    },
    "unlogged delivery": {faults.PARK: ALARMED},
    "healing of a parked delivery": {
        faults.RECEIVE: (
            "500 · 0 · waits · told, alarm",
            "500 · 0 · waits · told, alarm",
            "500 · 1 · dispatched · told, alarm",
        ),
        faults.LOG_PARKED: (
            "500 · 1 · waits · told, alarm",
            "500 · 1 · waits · told, alarm",
            "500 · 1 · dispatched · told, alarm",
        ),
        faults.DELETE: ("500 · 1 · dispatched · told, alarm",) * 3,
    },
    "healing of a lost execution": {
        faults.QUERY_LOST: UNSEEN,
        faults.KNOW_LOST: UNSEEN,
        faults.READ_LOST: UNSEEN,
        faults.LOG_LOST: ("500 · 1 · dispatched · alarm only",) * 3,
        faults.UNLIST_LOST: ("500 · 1 · dispatched · alarm only",) * 3,
    },
    "healing of a failure": {
        faults.QUERY_DUE: (
            "500 · 0 · waits · told, alarm",
            "500 · 0 · waits · told, alarm",
            "500 · 1 · dispatched · told",
        ),
        faults.READ_FAILURE: LEFT,
        faults.CLAIM_FAILURE: LEFT,
        faults.RUN_AGAIN: (
            "500 · 1 · given up · told",
            "500 · 1 · given up · told, alarm",
            "500 · 1 · dispatched · told",
        ),
        faults.LOG_AGAIN: NOT_LOGGED,
        faults.READ_OUTCOME: ("500 · 1 · waits · told", "500 · 1 · waits · told", "500 · 1 · dispatched · told"),
        faults.SETTLE: HEALED,
    },
    "redrive": {
        faults.SAVE: REFUSED_AGAIN,
        faults.LOOK_UP: REFUSED_AGAIN,
        faults.CLAIM: REFUSED_AGAIN,
        DISPATCH: ("500 · 2 · undecided · told", "500 · 2 · undecided · told", "500 · 1 · dispatched · told"),
        FINISH: HEALED,
        CONFIRM: ("500 · 1 · dispatched · told", "500 · 1 · given up · told", "500 · 1 · dispatched · told"),
        faults.FIND_PAYMENTS: (
            "500 · 1 · dispatched · told",
            "500 · 1 · given up · told",
            "500 · 1 · dispatched · told",
        ),
        faults.FIND_ORDERS: ("500 · 1 · dispatched · told", "500 · 1 · given up · told", "500 · 1 · dispatched · told"),
    },
}
WANTED = {"given up": "GivenUp", "undecided": "DispatchUndecided"}
WAYS = {
    frozenset[str](): "",
    frozenset({"e-mail", "Sentry"}): "told",
    frozenset({"e-mail", "Sentry", "alarm"}): "told, alarm",
    frozenset({"Sentry"}): "Sentry only",
    frozenset({"alarm"}): "alarm only",
}


def each_cell() -> pytest.MarkDecorator:
    cells = []
    turns = itertools.cycle(turn for fault in FAULTS for turn in (fault, ""))
    for path, calls in TABLE.items():
        for call, row in calls.items():
            own_turn = next(turns)
            # A slow Sentry takes real time.
            turn = "always killed" if call == REPORT else own_turn
            for fault, cell in zip(FAULTS, row, strict=True):
                mark = () if fault == turn or call == DISPATCH else pytest.mark.exhaustive
                if cell:
                    cells.append(pytest.param(path, call, fault, cell, id=f"{path}, {call}, {fault}", marks=mark))
    return pytest.mark.parametrize(("path", "call", "fault", "cell"), cells)


@pytest.fixture
def few_redrives(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    for state in ("ClaimFailure", "SettleFailure"):
        monkeypatch.setitem(workflow.functions.module_global(state, "redrives").MAX_ATTEMPTS, Lane.HEALING, REDRIVES)


def heal_to_the_end(workflow: Workflow) -> str:
    """Heal until that changes nothing; return how the last healing execution ended."""
    before, status = None, ""
    while before != (before := _progress(workflow)):
        workflow.pass_time(24 * 60)
        status = workflow.heal().status
    return status


def _progress(workflow: Workflow) -> Any:
    rows = [(row["requestId"], row["status"], row["attempts"], row["error"]) for row in workflow.errors]
    return sorted(rows), ["undispatchedSince" in record for record in workflow.records]


def state_of(workflow: Workflow) -> str:
    """Return what becomes of the payment, the worst first; `waits` means for healing."""
    lanes, records = {lane_of(row.get("queue")) for row in workflow.errors}, workflow.records
    if Lane.GIVEN_UP in lanes:
        return "given up"
    if Lane.OPERATOR in lanes:
        return "undecided"
    if lanes.intersection(AUTOMATIC) or workflow.parked or any("undispatchedSince" in record for record in records):
        return "waits"
    return "dispatched"


def ways_told(workflow: Workflow, state: str) -> set[str]:
    """Return by which ways operators were told of what they must do, or else of any failure."""
    error = WANTED.get(state, "")
    by_mail = any(mail.subject.endswith(error) for mail in workflow.mails)
    by_sentry = any(event["fingerprint"][-1].endswith(error) for event in workflow.sentry.events)
    return {way for way, is_used in {"e-mail": by_mail, "Sentry": by_sentry}.items() if is_used}


def cell_of(workflow: Workflow, delivered: Execution) -> str:
    state = state_of(workflow)
    ways = ways_told(workflow, state)
    if any(status != "SUCCEEDED" for status in workflow.statuses):
        ways.add("alarm")
    parts = (str(faults.status_of(delivered)), str(len(workflow.dispatched)), state, WAYS[frozenset(ways)])
    return " · ".join(part for part in parts if part)


def decide(workflow: Workflow, request_id: str, state: str) -> None:
    """Finish a failure as docs/operations.md says: redrive it, or dispatch an undecided payment again."""
    again = {"id": "decision-1", "action": "again", "by": "an operator", "reason": "process-paid has no trace of it"}
    workflow.heal(requestId=request_id, **({"decision": again} if state == "undecided" else {}))


def assert_nothing_is_lost(workflow: Workflow, again: dict[str, Any]) -> None:
    """Once the fault has ended, healing completes the payment, or an operator who was told does."""
    workflow.recover()
    assert heal_to_the_end(workflow) == "SUCCEEDED"
    state = state_of(workflow)
    assert state != "waits"
    if state != "dispatched":
        assert ways_told(workflow, state)
        for row in workflow.errors:
            decide(workflow, row["requestId"], state)
    faults.assert_all_is_well(workflow)
    faults.assert_is_duplicate(workflow, again)


@each_cell()
@pytest.mark.usefixtures("few_redrives", "claims_expire_before_retries")
def test_a_payment_is_dispatched_or_told_though_a_fault_lasts(
    workflow: Workflow, path: str, call: Call, fault: str, cell: str
) -> None:
    delivered = PATHS[path](workflow, call, lambda: faults.break_call(workflow, call, fault))
    heal_to_the_end(workflow)

    assert call.texts in workflow.aws.faulted or (call == REPORT and delivered.attempts[call.state])
    assert cell_of(workflow, delivered) == cell
    assert len(workflow.dispatched) <= PROMISED
    assert_nothing_is_lost(workflow, faults.redelivery(path))


def rendered() -> str:
    """Return the table in Markdown."""
    rows: list[Sequence[str]] = [["Path", "Call", *FAULTS], ["---"] * 5]
    rows += [
        [path, f"`{call.state}`: {call.purpose}", *row] for path, calls in TABLE.items() for call, row in calls.items()
    ]
    return faults.as_markdown(rows)


def test_the_table_is_published() -> None:
    print(rendered())
    assert faults.published("lasting faults") == rendered()


def test_an_invoke_that_lambda_accepts_and_loses_is_told_to_nobody(workflow: Workflow) -> None:
    workflow.aws.lose_in_queue(INVOKE)
    delivered = workflow.run(DELIVERY)
    heal_to_the_end(workflow)

    assert cell_of(workflow, delivered) == "200 · 0 · dispatched"
    (payment,) = workflow.payments
    assert "dispatchedBy" in payment
    assert workflow.errors == []
    assert workflow.run(DELIVERY | faults.AGAIN).answer[1]["duplicate"] is True
    assert workflow.dispatched == []


@pytest.mark.usefixtures("few_redrives", "claims_expire_before_retries")
def test_many_deliveries_of_a_payment_whose_dispatch_cannot_be_recorded(workflow: Workflow) -> None:
    for call in (FINISH, CONFIRM, CONFIRM_AGAIN):
        faults.break_call(workflow, call, "throttled")
    for number in range(3):
        workflow.run(DELIVERY | {"requestId": f"request-{number}"})
    heal_to_the_end(workflow)

    assert len(workflow.dispatched) == PROMISED
    assert {(row["status"], row["error"], lane_of(row["queue"])) for row in workflow.errors} == {
        ("open", "DispatchUndecided", Lane.OPERATOR)
    }
    (mail,) = [mail for mail in workflow.mails if mail.subject.endswith("DispatchUndecided")]
    assert f"The payment may have been dispatched {PROMISED} times" in mail.body
    workflow.recover()
    heal_to_the_end(workflow)
    assert len(workflow.dispatched) == PROMISED


def test_a_claim_whose_answer_is_lost_dispatches_once_in_real_time(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "Clock", RealClock)
    for module in (retrier_decl, endpoint):
        monkeypatch.setattr(module, "time", time)
    workflow.aws.lose_answer(CLAIM_PAYMENT, times=1)
    execution = workflow.run(DELIVERY)

    assert execution.answer[0] == 200
    assert len(workflow.dispatched) == 1
    (payment,) = workflow.payments
    assert (payment["dispatches"], "dispatchedBy" in payment) == (1, True)


def test_the_checks_are_not_made_again_for_a_dispatched_payment(workflow: Workflow) -> None:
    forget_secrets(workflow)
    put_secret()
    create_tables()
    put_order()
    workflow.deploy(SignatureMode="enforce", CrossCheckMode="enforce", InquiryMode="off")
    assert workflow.run(delivery()).answer[0] == 200
    client("dynamodb").delete_item(TableName="order-table-dev", Key={"orderId": {"S": "482500007436"}})
    again = workflow.run(delivery() | {"requestId": "delivered-again"})

    assert again.answer[1]["duplicate"] is True
    assert "CrossCheckPayment" not in again.states
    assert len(workflow.dispatched) == 1
    assert workflow.errors == []
