"""Each call that is made for a payment fails in each way, and the payment is still dispatched.

In the ordinary run each call has one of the faults, in turn; the exhaustive run adds the others.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from tests.sources import TEMPLATE
from tests.workflow import faults
from tests.workflow.account import Workflow
from tests.workflow.engine import Execution
from tests.workflow.faults import (
    AGAIN,
    CONFIRM,
    CONFIRM_AGAIN,
    DELIVERY,
    DISPATCH,
    FINISH,
    LOG_AGAIN,
    PATHS,
    REPORT,
    SETTLE,
    Call,
)

pytestmark = pytest.mark.usefixtures("claims_expire_before_retries")

# The first three last until the delivery, or the healing run, has ended; the other two happen once. A process is killed
# right after the call; if Step Functions makes the call itself, its whole execution is aborted instead.
THROUGHOUT = ("throttled", "server error", "timeout")
FAULTS = (*THROUGHOUT, "answer lost once", "killed once")

# For each call the HTTP answer, and how often process-paid has been invoked once everything works again, if the call
# fails throughout, if its answer is lost, and if its process is killed. It is invoked twice if Lambda accepted an
# invocation and no process survived to record that. If nothing could store the delivery, healing finds nothing; but the
# gateway gets no 200 and delivers again.
Row = tuple[str, str, str]
DELIVERED_AGAIN = "500 · 1, delivered again"
HEALED: Row = ("500 · 1", "500 · 1", "500 · 1")
TABLE: dict[str, dict[Call, Row]] = {
    "delivery": {
        faults.SAVE: ("500 · 1", "200 · 1", "500 · 1"),
        faults.LOOK_UP: ("500 · 1", "200 · 1", "500 · 1"),
        faults.CLAIM: ("500 · 1", "200 · 1", "500 · 1"),
        DISPATCH: ("500 · 1", "500 · 2", "500 · 2"),
        FINISH: ("200 · 1", "200 · 1", "200 · 1"),
        CONFIRM: ("200 · 1", "200 · 1", "200 · 1"),
        faults.FIND_PAYMENTS: ("200 · 1", "200 · 1", "200 · 1"),
        faults.FIND_ORDERS: ("200 · 1", "200 · 1", "200 · 1"),
    },
    "unconfirmed delivery": {CONFIRM_AGAIN: ("200 · 1", "200 · 1", "500 · 1")},
    "checked delivery": {
        faults.READ_SECRET: HEALED,
        faults.READ_ORDER: ("500 · 1", "200 · 1", "200 · 1"),
        faults.READ_PAYMENT: ("500 · 1", "200 · 1", "200 · 1"),
    },
    "failed delivery": dict.fromkeys(
        [
            faults.RELEASE,
            faults.LOG,
            REPORT,
            faults.OPEN_WINDOW,
            faults.READ_WINDOW,
            faults.SEND,
            faults.CLOSE_WINDOW,
            faults.COUNT_REPEAT,
        ],
        HEALED,
    ),
    "unlogged delivery": {faults.PARK: (DELIVERED_AGAIN, "500 · 1", "500 · 1")},
    "healing of a parked delivery": dict.fromkeys([faults.RECEIVE, faults.LOG_PARKED, faults.DELETE], HEALED),
    "healing of a lost execution": dict.fromkeys(
        [faults.QUERY_LOST, faults.KNOW_LOST, faults.READ_LOST, faults.LOG_LOST, faults.UNLIST_LOST], HEALED
    ),
    "healing of a failure": dict.fromkeys(
        [
            faults.QUERY_DUE,
            faults.READ_FAILURE,
            faults.CLAIM_FAILURE,
            faults.RUN_AGAIN,
            LOG_AGAIN,
            faults.READ_OUTCOME,
            SETTLE,
        ],
        HEALED,
    ),
    "redrive": {
        faults.SAVE: HEALED,
        faults.LOOK_UP: HEALED,
        faults.CLAIM: HEALED,
        DISPATCH: ("500 · 1", "500 · 2", "500 · 2"),
        FINISH: HEALED,
        CONFIRM: HEALED,
        faults.FIND_PAYMENTS: HEALED,
        faults.FIND_ORDERS: HEALED,
    },
}
# An execution that is aborted as a whole right after a state.
LOST_AFTER = {
    "ValidateCallback": DELIVERED_AGAIN,
    "SaveCallbackRecord": "500 · 1",
    "InvokeProcessPaid": "500 · 1",
}


def each_cell() -> pytest.MarkDecorator:
    cells = []
    turns = itertools.cycle(FAULTS)
    for path, calls in TABLE.items():
        for call, (throughout, answer_lost, killed) in calls.items():
            turn = next(turns)
            for fault in FAULTS:
                cell = {"answer lost once": answer_lost, "killed once": killed}.get(fault, throughout)
                mark = () if fault == turn or call == DISPATCH else pytest.mark.exhaustive
                cells.append(pytest.param(path, call, fault, cell, id=f"{path}, {call}, {fault}", marks=mark))
    return pytest.mark.parametrize(("path", "call", "fault", "cell"), cells)


def heal(workflow: Workflow) -> None:
    """End all faults and heal whatever is due: the second run finds what the first one has left."""
    workflow.recover()
    for _ in range(2):
        workflow.pass_time()
        assert workflow.heal().status == "SUCCEEDED"


def cell_of(delivered: Execution, workflow: Workflow) -> str:
    return f"{faults.status_of(delivered)} · {len(workflow.dispatched)}"


def assert_heals(workflow: Workflow, delivered: Execution, cell: str, again: dict[str, Any]) -> None:
    """The delivery was answered and, once everything works again, dispatched as the table's cell says."""
    heal(workflow)
    if cell == DELIVERED_AGAIN:
        assert (workflow.records, workflow.errors, workflow.dispatched) == ([], [], [])
        assert workflow.run(DELIVERY).answer[0] == 200
    assert cell.startswith(cell_of(delivered, workflow))
    faults.assert_all_is_well(workflow)
    faults.assert_is_duplicate(workflow, again)


@each_cell()
def test_a_payment_is_dispatched_though_a_call_fails(
    workflow: Workflow, path: str, call: Call, fault: str, cell: str
) -> None:
    delivered = PATHS[path](workflow, call, lambda: faults.break_call(workflow, call, fault))

    assert call.texts in workflow.aws.faulted or (call == REPORT and delivered.attempts[call.state])
    assert delivered.status == faults.expected_end(path, call, fault)
    assert_heals(workflow, delivered, cell, faults.redelivery(path))


@pytest.mark.parametrize("state", LOST_AFTER)
def test_a_lost_execution_is_healed_or_delivered_again(workflow: Workflow, state: str) -> None:
    workflow.functions.run_after(state, workflow.abort_callback)
    delivered = workflow.run(DELIVERY)

    assert (delivered.status, delivered.states[-1]) == ("ABORTED", state)
    assert_heals(workflow, delivered, LOST_AFTER[state], DELIVERY | AGAIN)


def test_a_dispatch_that_neither_claim_nor_record_shows_is_repeated(workflow: Workflow) -> None:
    faults.break_call(workflow, FINISH, "throttled")
    faults.break_call(workflow, CONFIRM, "throttled")
    faults.break_call(workflow, CONFIRM_AGAIN, "throttled")
    delivered = workflow.run(DELIVERY)

    assert delivered.answer[0] == 200
    assert len(workflow.dispatched) == 1
    heal(workflow)
    assert len(workflow.dispatched) == 2
    faults.assert_all_is_well(workflow)
    faults.assert_is_duplicate(workflow, DELIVERY | AGAIN)


def test_the_last_attempt_stays_the_last_if_its_outcome_is_not_recorded(workflow: Workflow) -> None:
    faults.refuse_invokes(workflow)
    workflow.run(DELIVERY)
    for _ in range(TEMPLATE["Parameters"]["RedriveAttempts"]["Default"]):
        faults.break_call(workflow, SETTLE, "throttled")
        workflow.pass_time()
        workflow.heal()
    workflow.aws.recover()
    heal(workflow)

    assert [row["status"] for row in workflow.errors] == ["given up"]
    assert workflow.dispatched == []
    assert [mail.subject.rpartition(" ")[2] for mail in workflow.mails] == ["ServiceUnavailable", "GivenUp"]


def rendered() -> str:
    """Return the table in Markdown; the faults that last have the same outcome, and share a column."""
    rows: list[Sequence[str]] = [["Path", "Call", "fails throughout", "answer lost once", "killed once"], ["---"] * 5]
    for path, calls in TABLE.items():
        rows += [[path, f"`{call.state}`: {call.purpose}", *row] for call, row in calls.items()]
    rows += [["lost execution", f"after `{state}`", "", "", cell] for state, cell in LOST_AFTER.items()]
    return faults.as_markdown(rows)


def test_the_table_is_published() -> None:
    print(rendered())
    assert faults.published("faults") == rendered()
