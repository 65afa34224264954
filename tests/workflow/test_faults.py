"""Each call that is made for a payment fails in each way, and the payment is still dispatched.

In the ordinary run each call has one of the lasting faults, in turn; the exhaustive run adds the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from local.stack import ROOT
from tests.outcomes import body_of
from tests.sources import TEMPLATE
from tests.workflow import account
from tests.workflow.account import INVOKE, SEND_MAIL, Workflow, kill_process
from tests.workflow.engine import ERROR_TABLE, RECORD_TABLE, Execution
from tests.workflow.genuine import create_tables, delivery, forget_secrets, put_order, put_secret

DELIVERY = {"body": body_of("paid"), "requestId": "8f7e6d5c", "receivedAt": 1795341600000, "sourceIp": "203.0.113.7"}

pytestmark = pytest.mark.usefixtures("claims_expire_before_retries")

# Where the table of all faults is published, between <!-- faults --> and <!-- /faults -->.
PUBLISHED_IN = ROOT / "docs/guarantees.md"

# The first three last until the delivery, or the healing run, has ended; the other two happen once. A process is killed
# right after the call; if Step Functions makes the call itself, its whole execution is aborted instead.
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
    """One call that a state makes; `detail` is in no other of the state's calls of that name."""

    state: str
    name: str
    purpose: str
    detail: str = ""

    @property
    def texts(self) -> account.Call:
        """Texts that only this call's description contains."""
        if self.name == "SendEmail":
            return SEND_MAIL
        function = "" if self.state in {"ConfirmDispatch", "RunCallback"} else self.state
        return (f"in {function}:", *(INVOKE if self.name == "Invoke" else (self.name, self.detail)))


READ_SECRET = Call("VerifySignature", "GetSecretValue", "read the bank's secret")
READ_ORDER = Call("CrossCheckPayment", "GetItem", "read the order", '"order-table-dev"')
READ_PAYMENT = Call("CrossCheckPayment", "GetItem", "read the earlier payment", '"payment3-card-payment')
SAVE = Call("SaveCallbackRecord", "PutItem", "store the record")
LOOK_UP = Call("SaveCallbackRecord", "GetItem", "look the payment up in the ledger")
CLAIM = Call("InvokeProcessPaid", "UpdateItem", "claim the payment", '"userDigest"')
DISPATCH = Call("InvokeProcessPaid", "Invoke", "invoke process-paid")
FINISH = Call("InvokeProcessPaid", "UpdateItem", "finish the claim", '"invokeRequestId"')
CONFIRM = Call("ConfirmDispatch", "UpdateItem", "confirm the dispatch in the record")
REPORT = Call("ReportToSentry", "POST", "send the event")
SEND = Call("SendErrorEmail", "SendEmail", "send the e-mail")
READ_WINDOW = Call("SendErrorEmail", "GetItem", "read the alert window that is open")
CLOSE_WINDOW = Call("SendErrorEmail", "UpdateItem", "close the alert window if no e-mail went out", '"#0": "openedBy"')
COUNT_REPEAT = Call("SendErrorEmail", "UpdateItem", "count a suppressed e-mail", "ADD")
SETTLE = Call("SettleFailure", "UpdateItem", "record the outcome")
LOG_AGAIN = Call("WriteErrorLog", "UpdateItem", "record that it failed again", '"#0": "functionName"')

# For each call the HTTP answer, and how often process-paid has been invoked once everything works again, if the call
# fails throughout, if its answer is lost, and if its process is killed. It is invoked twice if Lambda accepted an
# invocation and no process survived to record that.
Row = tuple[str, str, str]
HEALED: Row = ("500 · 1", "500 · 1", "500 · 1")
TABLE: dict[str, dict[Call, Row]] = {
    "delivery": {
        SAVE: ("500 · 1", "200 · 1", "500 · 1"),
        LOOK_UP: ("500 · 1", "200 · 1", "500 · 1"),
        CLAIM: ("500 · 1", "200 · 1", "500 · 1"),
        DISPATCH: ("500 · 1", "500 · 2", "500 · 2"),
        FINISH: ("200 · 1", "200 · 1", "500 · 1"),
        CONFIRM: ("200 · 1", "200 · 1", "500 · 1"),
    },
    "checked delivery": {
        READ_SECRET: ("500 · 1", "200 · 1", "500 · 1"),
        READ_ORDER: ("500 · 1", "200 · 1", "500 · 1"),
        READ_PAYMENT: ("500 · 1", "200 · 1", "500 · 1"),
    },
    "failed delivery": dict.fromkeys(
        [
            Call("InvokeProcessPaid", "UpdateItem", "release the claim", '"UpdateExpression": "REMOVE'),
            Call("WriteErrorLog", "UpdateItem", "write the error log"),
            REPORT,
            Call("SendErrorEmail", "UpdateItem", "open the alert window", '"#0": "kind"'),
            READ_WINDOW,
            SEND,
            CLOSE_WINDOW,
            COUNT_REPEAT,
        ],
        HEALED,
    ),
    "healing of a lost execution": dict.fromkeys(
        [
            Call("CollectUndispatched", "Query", "query undispatched records"),
            Call("CollectUndispatched", "GetItem", "read the record"),
            Call("CollectUndispatched", "UpdateItem", "add it to the error log", ERROR_TABLE),
            Call("CollectUndispatched", "UpdateItem", "remove it from the index", RECORD_TABLE),
        ],
        HEALED,
    ),
    "healing of a failure": dict.fromkeys(
        [
            Call("FindFailures", "Query", "query due failures"),
            Call("ClaimFailure", "GetItem", "read the failure"),
            Call("ClaimFailure", "UpdateItem", "claim the failure"),
            Call("RunCallback", "StartSyncExecution", "run the callback workflow"),
            LOG_AGAIN,
            Call("SettleFailure", "GetItem", "read the failure"),
            SETTLE,
        ],
        HEALED,
    ),
    "redrive": {
        SAVE: HEALED,
        LOOK_UP: HEALED,
        CLAIM: HEALED,
        DISPATCH: ("500 · 1", "500 · 2", "500 · 2"),
        FINISH: HEALED,
        CONFIRM: HEALED,
    },
}
# An execution that is aborted as a whole right after a state. Before the record is stored, healing finds nothing; but
# the gateway gets no 200 and delivers again.
LOST_AFTER = {
    "ValidateCallback": "500 · 1, delivered again",
    "SaveCallbackRecord": "500 · 1",
    "InvokeProcessPaid": "500 · 1",
    "ConfirmDispatch": "500 · 1",
}


def each_cell(path: str) -> pytest.MarkDecorator:
    cells = []
    for number, (call, (lasting, answer_lost, killed)) in enumerate(TABLE[path].items()):
        for fault in FAULTS:
            is_ordinary = fault not in LASTING or fault == LASTING[number % len(LASTING)]
            cell = {"answer lost": answer_lost, "killed": killed}.get(fault, lasting)
            cells.append(
                pytest.param(
                    call,
                    fault,
                    cell,
                    id=f"{call.state}: {call.purpose}, {fault}",
                    marks=() if is_ordinary else pytest.mark.exhaustive,
                )
            )
    return pytest.mark.parametrize(("call", "fault", "cell"), cells)


def break_call(workflow: Workflow, call: Call, fault: str) -> None:
    match fault:
        case _ if call == REPORT:
            break_sentry(workflow, fault)
        case "throttled":
            workflow.aws.refuse(call.texts, *THROTTLES.get(call.name, DYNAMODB_THROTTLE))
        case "server error":
            workflow.aws.refuse(call.texts, "InternalServerError", 500)
        case "timeout":
            workflow.aws.time_out(call.texts)
        case "answer lost":
            workflow.aws.lose_answer(call.texts, times=1)
        case "killed":
            lose = {"ConfirmDispatch": workflow.abort_callback, "RunCallback": workflow.abort_healing}
            workflow.aws.run_after(call.texts, lose.get(call.state, kill_process))


def break_sentry(workflow: Workflow, fault: str) -> None:
    workflow.sentry.status = {"throttled": 429, "server error": 500, "timeout": 503}.get(fault, 200)
    workflow.sentry.unanswered = {"timeout": 99, "answer lost": 1}.get(fault, 0)
    if fault == "killed":
        workflow.functions.run_after("ReportToSentry", kill_process)


def refuse_invokes(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, *THROTTLES["Invoke"])


def lose_after(workflow: Workflow, state: str) -> None:
    if state == "ConfirmDispatch":
        break_call(workflow, CONFIRM, "killed")
    else:
        workflow.functions.run_after(state, workflow.abort_callback)


def heal(workflow: Workflow) -> None:
    """End all faults and heal whatever is due: the second run finds what the first one has left."""
    workflow.recover()
    for _ in range(2):
        workflow.pass_time()
        assert workflow.heal().status == "SUCCEEDED"


def cell_of(delivered: Execution, workflow: Workflow) -> str:
    status = delivered.answer[0] if delivered.status == "SUCCEEDED" else 500
    return f"{status} · {len(workflow.dispatched)}"


def assert_all_is_well(workflow: Workflow) -> None:
    """The payment was dispatched unchanged, its record says so, and nothing is left to do."""
    records = workflow.records
    (dispatched,) = {record["dispatchedBy"] for record in records}
    assert dispatched in {record["deliveryId"] for record in records}
    assert not any("undispatchedSince" in record for record in records)
    assert {payload for _, _, payload in workflow.dispatched} == {body_of("paid").encode()}
    assert all(row["status"] == "resolved" and "queue" not in row for row in workflow.errors)


def assert_is_duplicate(workflow: Workflow) -> None:
    """One more delivery changes nothing."""
    calls = len(workflow.dispatched)
    status, answer = workflow.run(DELIVERY | {"requestId": "delivered-again"}).answer
    assert (status, answer["duplicate"], len(workflow.dispatched)) == (200, True, calls)


def assert_heals(workflow: Workflow, delivered: Execution, cell: str) -> None:
    """The delivery was answered and, once everything works again, dispatched as the table's cell says."""
    heal(workflow)
    assert cell_of(delivered, workflow) == cell
    assert_all_is_well(workflow)
    assert_is_duplicate(workflow)


@each_cell("delivery")
def test_a_delivery_is_dispatched_though_a_call_fails(workflow: Workflow, call: Call, fault: str, cell: str) -> None:
    break_call(workflow, call, fault)
    delivered = workflow.run(DELIVERY)

    assert call.texts in workflow.aws.faulted
    assert delivered.status == ("ABORTED" if (call, fault) == (CONFIRM, "killed") else "SUCCEEDED")
    assert workflow.records or workflow.errors
    assert_heals(workflow, delivered, cell)


@each_cell("checked delivery")
def test_a_delivery_that_cannot_be_checked_is_dispatched_once_it_can(
    workflow: Workflow, call: Call, fault: str, cell: str
) -> None:
    forget_secrets(workflow)
    put_secret()
    create_tables()
    put_order()
    workflow.deploy(SignatureMode="enforce", CrossCheckMode="enforce")
    break_call(workflow, call, fault)
    delivered = workflow.run(delivery())

    assert call.texts in workflow.aws.faulted
    assert workflow.records or workflow.errors
    heal(workflow)
    assert cell_of(delivered, workflow) == cell
    assert_all_is_well(workflow)


@each_cell("failed delivery")
def test_a_failure_is_healed_though_one_of_its_own_calls_fails(
    workflow: Workflow, call: Call, fault: str, cell: str
) -> None:
    refuse_invokes(workflow)
    if call == CLOSE_WINDOW:
        break_call(workflow, SEND, "throttled")
    if call in {READ_WINDOW, COUNT_REPEAT}:
        workflow.run(DELIVERY | {"requestId": "the-first-of-its-kind"})
        workflow.functions.replace_container("SendErrorEmail")
    break_call(workflow, call, fault)
    delivered = workflow.run(DELIVERY)

    assert call.texts in workflow.aws.faulted or call == REPORT
    assert delivered.attempts[call.state]
    assert workflow.records
    assert_heals(workflow, delivered, cell)


@each_cell("healing of a lost execution")
def test_a_lost_execution_is_healed_though_a_call_fails(workflow: Workflow, call: Call, fault: str, cell: str) -> None:
    lose_after(workflow, "SaveCallbackRecord")
    delivered = workflow.run(DELIVERY)
    break_call(workflow, call, fault)
    workflow.heal()

    assert call.texts in workflow.aws.faulted
    assert_heals(workflow, delivered, cell)


@each_cell("healing of a failure")
def test_a_failure_is_healed_though_a_call_fails(workflow: Workflow, call: Call, fault: str, cell: str) -> None:
    refuse_invokes(workflow)
    delivered = workflow.run(DELIVERY)
    if call != LOG_AGAIN:
        workflow.recover()
    break_call(workflow, call, fault)
    workflow.heal()

    assert call.texts in workflow.aws.faulted
    assert_heals(workflow, delivered, cell)


@each_cell("redrive")
def test_a_redriven_delivery_is_dispatched_though_a_call_fails(
    workflow: Workflow, call: Call, fault: str, cell: str
) -> None:
    refuse_invokes(workflow)
    delivered = workflow.run(DELIVERY)
    workflow.recover()
    break_call(workflow, call, fault)
    workflow.heal()

    assert call.texts in workflow.aws.faulted
    assert_heals(workflow, delivered, cell)


@pytest.mark.parametrize("state", LOST_AFTER)
def test_a_lost_execution_is_healed_or_delivered_again(workflow: Workflow, state: str) -> None:
    lose_after(workflow, state)
    delivered = workflow.run(DELIVERY)

    assert (delivered.status, delivered.states[-1]) == ("ABORTED", state)
    heal(workflow)
    if state == "ValidateCallback":
        assert (workflow.records, workflow.errors, workflow.dispatched) == ([], [], [])
        assert workflow.run(DELIVERY).answer[0] == 200
    assert LOST_AFTER[state].startswith(cell_of(delivered, workflow))
    assert_all_is_well(workflow)
    assert_is_duplicate(workflow)


def test_a_dispatch_that_neither_claim_nor_record_shows_is_repeated(workflow: Workflow) -> None:
    break_call(workflow, FINISH, "throttled")
    break_call(workflow, CONFIRM, "throttled")
    delivered = workflow.run(DELIVERY)

    assert delivered.answer[0] == 200
    assert len(workflow.dispatched) == 1
    heal(workflow)
    assert len(workflow.dispatched) == 2
    assert_all_is_well(workflow)
    assert_is_duplicate(workflow)


def test_the_last_attempt_stays_the_last_if_its_outcome_is_not_recorded(workflow: Workflow) -> None:
    refuse_invokes(workflow)
    workflow.run(DELIVERY)
    for _ in range(TEMPLATE["Parameters"]["RedriveAttempts"]["Default"]):
        break_call(workflow, SETTLE, "throttled")
        workflow.pass_time()
        workflow.heal()
    workflow.aws.recover()
    heal(workflow)

    assert [row["status"] for row in workflow.errors] == ["given up"]
    assert workflow.dispatched == []
    assert [mail.subject.rpartition(" ")[2] for mail in workflow.mails] == ["ServiceUnavailable", "GivenUp"]


def rendered() -> str:
    """Return the table in Markdown; the lasting faults have the same outcome, and share a column."""
    rows: list[Sequence[str]] = [["Path", "Call", "fails throughout", "answer lost", "killed"], ["---"] * 5]
    for path, calls in TABLE.items():
        rows += [[path, f"`{call.state}`: {call.purpose}", *row] for call, row in calls.items()]
    rows += [["lost execution", f"after `{state}`", "", "", cell] for state, cell in LOST_AFTER.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def test_the_table_is_published() -> None:
    print(rendered())
    published = PUBLISHED_IN.read_text().partition("<!-- faults -->")[2].partition("<!-- /faults -->")[0]
    assert published.strip() == rendered()
