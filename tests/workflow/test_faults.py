"""Every call that is made for a payment, and every way in which it fails: the payment is dispatched, and once."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from botocore import endpoint
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl

from local.stack import ROOT
from tests.outcomes import body_of
from tests.sources import TEMPLATE
from tests.workflow.account import INVOKE, SEND_MAIL, Workflow, kill_process
from tests.workflow.engine import Execution
from tests.workflow.genuine import create_tables, delivery, forget_secrets, put_order, put_secret

DELIVERY = {"body": body_of("paid"), "requestId": "8f7e6d5c", "receivedAt": 1795341600000, "sourceIp": "203.0.113.7"}

# The first three last until the delivery, or the healing run, is over; the other two happen once. A process is killed
# right after its call was made; where Step Functions makes the call itself, the whole execution is lost instead.
LASTING = ("throttled", "server error", "timeout")
FAULTS = (*LASTING, "answer lost", "killed")
THROTTLES = {
    "Invoke": ("TooManyRequestsException", 429),
    "SendEmail": ("Throttling", 400),
    "StartSyncExecution": ("ThrottlingException", 400),
}
DYNAMODB_THROTTLE = ("ProvisionedThroughputExceededException", 400)


@dataclass(frozen=True)
class Call:
    """One call that a state makes; `detail` tells it from another of the same name."""

    state: str
    name: str
    purpose: str
    detail: str = ""

    @property
    def said(self) -> tuple[str, ...]:
        """How the wire knows it."""
        if self.name == "SendEmail":
            return SEND_MAIL
        function = "" if self.state in {"ConfirmDispatch", "RunCallback"} else self.state
        return (f"in {function}:", *(INVOKE if self.name == "Invoke" else (self.name, self.detail)))


READ_SECRET = Call("VerifySignature", "GetSecretValue", "read the bank's secret")
READ_ORDER = Call("CrossCheckPayment", "GetItem", "read the order", '"order-table-dev"')
READ_PAYMENT = Call("CrossCheckPayment", "GetItem", "read the payment on record", '"payment3-card-payment')
SAVE = Call("SaveCallbackRecord", "PutItem", "put the record")
CLAIM = Call("InvokeProcessPaid", "PutItem", "claim the payment")
LOOK_UP = Call("InvokeProcessPaid", "Query", "ask the records for a dispatch")
HAND_ON = Call("InvokeProcessPaid", "Invoke", "invoke process-paid")
NOTE = Call("InvokeProcessPaid", "UpdateItem", "note that it was invoked")
CONFIRM = Call("ConfirmDispatch", "UpdateItem", "note it in the record")
REPORT = Call("ReportToSentry", "POST", "send the event")
SEND = Call("SendErrorEmail", "SendEmail", "send the mail")
CLOSE_WINDOW = Call("SendErrorEmail", "UpdateItem", "close it again without a mail", '"#0": "openedBy"')
COUNT_REPEAT = Call("SendErrorEmail", "UpdateItem", "count a repeat", "ADD")
SETTLE = Call("SettleFailure", "UpdateItem", "note the result")
LOG_AGAIN = Call("WriteErrorLog", "UpdateItem", "note that it failed again", '"#0": "functionName"')

# What the gateway is answered, and how often process-paid has been called when all is well again. Twice is where Lambda
# accepted an invoke and nobody lived to hear of it.
Row = tuple[str, ...]
HEALED: Row = ("500 · 1",) * 5
TABLE: dict[str, dict[Call, Row]] = {
    "delivery": {
        SAVE: ("500 · 1", "500 · 1", "500 · 1", "200 · 1", "500 · 1"),
        CLAIM: ("500 · 1", "500 · 1", "500 · 1", "200 · 1", "500 · 1"),
        LOOK_UP: ("500 · 1", "500 · 1", "500 · 1", "200 · 1", "500 · 1"),
        HAND_ON: ("500 · 1", "500 · 1", "500 · 1", "200 · 2", "500 · 2"),
        NOTE: ("200 · 1", "200 · 1", "200 · 1", "200 · 1", "500 · 1"),
        CONFIRM: ("200 · 1", "200 · 1", "200 · 1", "200 · 1", "500 · 1"),
    },
    "delivery, checked": {
        READ_SECRET: HEALED,
        READ_ORDER: ("500 · 1", "500 · 1", "500 · 1", "200 · 1", "500 · 1"),
        READ_PAYMENT: ("500 · 1", "500 · 1", "500 · 1", "200 · 1", "500 · 1"),
    },
    "its failure": dict.fromkeys(
        [
            Call("InvokeProcessPaid", "DeleteItem", "give the claim back"),
            Call("WriteErrorLog", "UpdateItem", "write the error log"),
            REPORT,
            Call("SendErrorEmail", "UpdateItem", "open the alert window", "if_not_exists"),
            SEND,
            CLOSE_WINDOW,
            COUNT_REPEAT,
        ],
        HEALED,
    ),
    "healing, lost": dict.fromkeys(
        [
            Call("CollectUndispatched", "Query", "query what is undispatched"),
            Call("CollectUndispatched", "GetItem", "get the record"),
            Call("CollectUndispatched", "PutItem", "put it into the error log"),
            Call("CollectUndispatched", "UpdateItem", "take it out of the index"),
        ],
        HEALED,
    ),
    "healing, failed": dict.fromkeys(
        [
            Call("FindFailures", "Query", "query what is due"),
            Call("ClaimFailure", "GetItem", "get the failure"),
            Call("ClaimFailure", "UpdateItem", "claim it"),
            Call("RunCallback", "StartSyncExecution", "run the callback workflow"),
            LOG_AGAIN,
            Call("SettleFailure", "GetItem", "get the failure"),
            SETTLE,
        ],
        HEALED,
    ),
    "run again": {
        SAVE: HEALED,
        CLAIM: HEALED,
        LOOK_UP: HEALED,
        HAND_ON: ("500 · 1", "500 · 1", "500 · 1", "500 · 2", "500 · 2"),
        NOTE: HEALED,
        CONFIRM: HEALED,
    },
}
# An execution that is lost as a whole right after a state. Before the record there is nothing to heal from, but the
# gateway has no 200 and delivers again.
LOST_AFTER = {
    "ValidateCallback": "500 · 1, delivered again",
    "SaveCallbackRecord": "500 · 1",
    "InvokeProcessPaid": "500 · 1",
    "ConfirmDispatch": "500 · 1",
}


def each_cell(path: str) -> pytest.MarkDecorator:
    cells = [(call, *cell) for call, row in TABLE[path].items() for cell in zip(FAULTS, row, strict=True)]
    return pytest.mark.parametrize(
        ("call", "fault", "cell"),
        [pytest.param(*cell, id=f"{cell[0].state}: {cell[0].purpose}, {cell[1]}") for cell in cells],
    )


@pytest.fixture(autouse=True)
def _pauses_pass(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause before an attempt is as long as a function may run, and thus as a claim can be held by the last one."""
    monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=lambda _: workflow.end_claims()))
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(sleep=lambda _: None))


def break_call(workflow: Workflow, call: Call, fault: str) -> None:
    match fault:
        case _ if call == REPORT:
            break_sentry(workflow, fault)
        case "throttled":
            workflow.wire.refuse(call.said, *THROTTLES.get(call.name, DYNAMODB_THROTTLE))
        case "server error":
            workflow.wire.refuse(call.said, "InternalServerError", 500)
        case "timeout":
            workflow.wire.time_out(call.said)
        case "answer lost":
            workflow.wire.lose_answer(call.said, times=1)
        case "killed":
            lose = {"ConfirmDispatch": workflow.lose_callback, "RunCallback": workflow.lose_healing}
            workflow.wire.follow(call.said, lose.get(call.state, kill_process))


def break_sentry(workflow: Workflow, fault: str) -> None:
    workflow.sentry.status = {"throttled": 429, "server error": 500, "timeout": 503}.get(fault, 200)
    workflow.sentry.unanswered = {"timeout": 99, "answer lost": 1}.get(fault, 0)
    if fault == "killed":
        workflow.functions.end_with("ReportToSentry", kill_process)


def refuse_invokes(workflow: Workflow) -> None:
    workflow.wire.refuse(INVOKE, *THROTTLES["Invoke"])


def lose_after(workflow: Workflow, state: str) -> None:
    if state == "ConfirmDispatch":
        break_call(workflow, CONFIRM, "killed")
    else:
        workflow.functions.end_with(state, workflow.lose_callback)


def heal(workflow: Workflow) -> None:
    """End all faults, and run again whatever is due: the second run finds what the first one has left."""
    workflow.recover()
    for _ in range(2):
        workflow.pass_time()
        assert workflow.heal().status == "SUCCEEDED"


def shown(delivered: Execution, workflow: Workflow) -> str:
    status = delivered.answer[0] if delivered.status == "SUCCEEDED" else 500
    return f"{status} · {len(workflow.processed)}"


def assert_all_is_well(workflow: Workflow) -> None:
    """The payment was handed on as it came, its record says so, and nothing is left to be done."""
    records = workflow.records
    (dispatched,) = {record["dispatchedBy"] for record in records}
    assert dispatched in {record["deliveryId"] for record in records}
    assert not any("undispatchedSince" in record for record in records)
    assert {payload for _, _, payload in workflow.processed} == {DELIVERY["body"].encode()}
    assert all(row["status"] == "resolved" and "nextAttemptAt" not in row for row in workflow.errors)


def assert_is_duplicate(workflow: Workflow) -> None:
    """What is delivered once more changes nothing."""
    calls = len(workflow.processed)
    status, answer = workflow.run(DELIVERY | {"requestId": "delivered-again"}).answer
    assert (status, answer["duplicate"], len(workflow.processed)) == (200, True, calls)


def assert_heals(workflow: Workflow, delivered: Execution, cell: str) -> None:
    """The delivery was answered and, once all works again, handed on as the table's cell says."""
    heal(workflow)
    assert shown(delivered, workflow) == cell
    assert_all_is_well(workflow)
    assert_is_duplicate(workflow)


@each_cell("delivery")
def test_a_delivery_on_which_a_call_fails_is_dispatched(workflow: Workflow, call: Call, fault: str, cell: str) -> None:
    break_call(workflow, call, fault)
    delivered = workflow.run(DELIVERY)

    assert call.said in workflow.wire.met
    assert delivered.status == ("ABORTED" if (call, fault) == (CONFIRM, "killed") else "SUCCEEDED")
    assert workflow.records or workflow.errors
    assert_heals(workflow, delivered, cell)


@each_cell("delivery, checked")
def test_a_genuine_delivery_that_cannot_be_checked_is_dispatched_once_it_can(
    workflow: Workflow, call: Call, fault: str, cell: str
) -> None:
    forget_secrets(workflow)
    put_secret()
    create_tables()
    put_order()
    workflow.deploy(SignatureMode="enforce", CrossCheckMode="enforce")
    break_call(workflow, call, fault)
    delivered = workflow.run(delivery())

    assert call.said in workflow.wire.met
    assert workflow.records or workflow.errors
    heal(workflow)
    assert shown(delivered, workflow) == cell
    assert_all_is_well(workflow)


@each_cell("its failure")
def test_a_failure_whose_report_fails_is_healed(workflow: Workflow, call: Call, fault: str, cell: str) -> None:
    refuse_invokes(workflow)
    if call == CLOSE_WINDOW:
        break_call(workflow, SEND, "throttled")
    if call == COUNT_REPEAT:
        workflow.run(DELIVERY | {"requestId": "the-first-of-its-kind"})
    break_call(workflow, call, fault)
    delivered = workflow.run(DELIVERY)

    assert call.said in workflow.wire.met or call == REPORT
    assert delivered.attempts[call.state]
    assert workflow.records
    assert_heals(workflow, delivered, cell)


@each_cell("healing, lost")
def test_a_lost_execution_is_healed_though_a_call_fails(workflow: Workflow, call: Call, fault: str, cell: str) -> None:
    lose_after(workflow, "SaveCallbackRecord")
    delivered = workflow.run(DELIVERY)
    break_call(workflow, call, fault)
    workflow.heal()

    assert call.said in workflow.wire.met
    assert_heals(workflow, delivered, cell)


@each_cell("healing, failed")
def test_a_failure_is_healed_though_a_call_fails(workflow: Workflow, call: Call, fault: str, cell: str) -> None:
    refuse_invokes(workflow)
    delivered = workflow.run(DELIVERY)
    if call != LOG_AGAIN:
        workflow.recover()
    break_call(workflow, call, fault)
    workflow.heal()

    assert call.said in workflow.wire.met
    assert_heals(workflow, delivered, cell)


@each_cell("run again")
def test_a_delivery_that_is_run_again_and_on_which_a_call_fails_is_dispatched(
    workflow: Workflow, call: Call, fault: str, cell: str
) -> None:
    refuse_invokes(workflow)
    delivered = workflow.run(DELIVERY)
    workflow.recover()
    break_call(workflow, call, fault)
    workflow.heal()

    assert call.said in workflow.wire.met
    assert_heals(workflow, delivered, cell)


@pytest.mark.parametrize("state", LOST_AFTER)
def test_an_execution_that_is_lost_is_healed_or_delivered_again(workflow: Workflow, state: str) -> None:
    lose_after(workflow, state)
    delivered = workflow.run(DELIVERY)

    assert (delivered.status, delivered.states[-1]) == ("ABORTED", state)
    heal(workflow)
    if state == "ValidateCallback":
        assert (workflow.records, workflow.errors, workflow.processed) == ([], [], [])
        assert workflow.run(DELIVERY).answer[0] == 200
    assert LOST_AFTER[state].startswith(shown(delivered, workflow))
    assert_all_is_well(workflow)
    assert_is_duplicate(workflow)


def test_a_dispatch_that_neither_claim_nor_record_could_note_is_made_again(workflow: Workflow) -> None:
    break_call(workflow, NOTE, "throttled")
    break_call(workflow, CONFIRM, "throttled")
    delivered = workflow.run(DELIVERY)

    assert delivered.answer[0] == 200
    assert len(workflow.processed) == 1
    heal(workflow)
    assert len(workflow.processed) == 2
    assert_all_is_well(workflow)
    assert_is_duplicate(workflow)


def test_a_last_attempt_is_the_last_though_its_result_cannot_be_noted(workflow: Workflow) -> None:
    refuse_invokes(workflow)
    workflow.run(DELIVERY)
    for _ in range(TEMPLATE["Parameters"]["RedriveAttempts"]["Default"]):
        break_call(workflow, SETTLE, "throttled")
        workflow.pass_time()
        workflow.heal()
    workflow.wire.recover()
    heal(workflow)

    assert [row["status"] for row in workflow.errors] == ["given up"]
    assert workflow.processed == []
    assert [mail.subject.rpartition(" ")[2] for mail in workflow.mails] == ["ServiceUnavailable", "GivenUp"]


def rendered() -> str:
    """The table as README.md has it."""
    rows = [["Path", "Call", *FAULTS], ["---"] * (2 + len(FAULTS))]
    for path, calls in TABLE.items():
        rows += [[path, f"`{call.state}`: {call.purpose}", *row] for call, row in calls.items()]
    rows += [["execution lost", f"after `{state}`", "", "", "", "", cell] for state, cell in LOST_AFTER.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def test_the_table_is_in_the_readme() -> None:
    print(rendered())
    written = (ROOT / "README.md").read_text().partition("<!-- faults -->")[2].partition("<!-- /faults -->")[0]
    assert written.strip() == rendered()
