"""The calls that are made for a payment, the paths on which they are made, and the ways in which a call fails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from local.stack import ROOT
from tests.outcomes import body_of
from tests.workflow import account
from tests.workflow.account import ALWAYS, INVOKE, SEND_MAIL, Workflow, kill_process
from tests.workflow.engine import ERROR_TABLE, RECORD_TABLE, Execution
from tests.workflow.genuine import create_tables, delivery, forget_secrets, put_order, put_secret

PUBLISHED_IN = ROOT / "docs/guarantees.md"

DELIVERY = {"body": body_of("paid"), "requestId": "8f7e6d5c", "receivedAt": 1795341600000, "sourceIp": "203.0.113.7"}

# What tells another delivery of the same callback from it.
AGAIN = {"requestId": "delivered-again"}

THROTTLES = {
    "Invoke": ("TooManyRequestsException", 429),
    "SendEmail": ("Throttling", 400),
    "StartSyncExecution": ("ThrottlingException", 400),
    **dict.fromkeys(("SendMessage", "ReceiveMessage", "DeleteMessageBatch"), ("RequestThrottled", 403)),
}
# The states that call AWS without a function.
OWN_CALLS = {"ConfirmDispatch", "ParkDelivery", "RunCallback"}
DYNAMODB_THROTTLE = ("ProvisionedThroughputExceededException", 400)


@dataclass(frozen=True)
class Call:
    """One call that a state makes; `detail` is in no other of the state's calls of that name."""

    state: str
    name: str
    purpose: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.purpose}"

    @property
    def texts(self) -> account.Call:
        """Texts that only this call's description contains."""
        if self == EVERY_CALL:
            return ()
        if self.name == "SendEmail":
            return SEND_MAIL
        function = "" if self.state in OWN_CALLS else self.state
        return (f"in {function}:", *(INVOKE if self.name == "Invoke" else (self.name, self.detail)))


READ_SECRET = Call("VerifySignature", "GetSecretValue", "read the bank's secret")
READ_ORDER = Call("CrossCheckPayment", "GetItem", "read the order", '"order-table-dev"')
READ_PAYMENT = Call("CrossCheckPayment", "GetItem", "read the earlier payment", '"payment3-card-payment')
SAVE = Call("SaveCallbackRecord", "PutItem", "store the record")
LOOK_UP = Call("SaveCallbackRecord", "GetItem", "look the payment up in the ledger")
CLAIM = Call("InvokeProcessPaid", "UpdateItem", "claim the payment", '"userDigest"')
DISPATCH = Call("InvokeProcessPaid", "Invoke", "invoke process-paid")
FINISH = Call("InvokeProcessPaid", "UpdateItem", "finish the claim", '"invokeRequestId"')
RELEASE = Call("InvokeProcessPaid", "UpdateItem", "release the claim", '"UpdateExpression": "REMOVE')
FIND_PAYMENTS = Call("InvokeProcessPaid", "Query", "look for other payments of the order", '"ConsistentRead": true')
FIND_ORDERS = Call("InvokeProcessPaid", "Query", "look for other orders with the payment id", '"byPaymentId"')
CONFIRM = Call("InvokeProcessPaid", "UpdateItem", "confirm the dispatch in the record", '"crossCheck"')
CONFIRM_AGAIN = Call("ConfirmDispatch", "UpdateItem", "confirm the dispatch in the record")
LOG = Call("WriteErrorLog", "UpdateItem", "write the error log")
PARK = Call("ParkDelivery", "SendMessage", "park the delivery")
REPORT = Call("ReportToSentry", "POST", "send the event")
OPEN_WINDOW = Call("SendErrorEmail", "UpdateItem", "open the alert window", '"#0": "kind"')
READ_WINDOW = Call("SendErrorEmail", "GetItem", "read the alert window that is open")
SEND = Call("SendErrorEmail", "SendEmail", "send the e-mail")
CLOSE_WINDOW = Call("SendErrorEmail", "UpdateItem", "close the alert window if no e-mail went out", '"#0": "openedBy"')
COUNT_REPEAT = Call("SendErrorEmail", "UpdateItem", "count a suppressed e-mail", "ADD")
RECEIVE = Call("TakeParked", "ReceiveMessage", "receive parked deliveries")
LOG_PARKED = Call("TakeParked", "UpdateItem", "write the error log")
DELETE = Call("TakeParked", "DeleteMessageBatch", "delete them from the queue")
QUERY_LOST = Call("CollectUndispatched", "Query", "query undispatched records")
KNOW_LOST = Call("CollectUndispatched", "BatchGetItem", "look for their failures in the error log")
READ_LOST = Call("CollectUndispatched", "GetItem", "read the record")
LOG_LOST = Call("CollectUndispatched", "UpdateItem", "add it to the error log", ERROR_TABLE)
UNLIST_LOST = Call("CollectUndispatched", "UpdateItem", "remove it from the index", RECORD_TABLE)
QUERY_DUE = Call("FindFailures", "Query", "query due failures")
READ_FAILURE = Call("ClaimFailure", "GetItem", "read the failure")
CLAIM_FAILURE = Call("ClaimFailure", "UpdateItem", "claim the failure")
RUN_AGAIN = Call("RunCallback", "StartSyncExecution", "run the callback workflow")
LOG_AGAIN = Call("WriteErrorLog", "UpdateItem", "record that it failed again", '"#0": "functionName"')
READ_OUTCOME = Call("SettleFailure", "GetItem", "read the failure")
SETTLE = Call("SettleFailure", "UpdateItem", "record the outcome")

# Every call at once, those of Step Functions itself included.
EVERY_CALL = Call("every state", "", "every call")


def break_call(workflow: Workflow, call: Call, fault: str) -> None:
    """Let a call fail in this way until `workflow.recover()`; "once" is in the names of the faults that happen once."""
    match fault:
        case _ if call == REPORT:
            break_sentry(workflow, fault)
        case "throttled":
            workflow.aws.refuse(call.texts, *THROTTLES.get(call.name, DYNAMODB_THROTTLE))
        case "server error":
            workflow.aws.refuse(call.texts, "InternalServerError", 500)
        case "timeout":
            workflow.aws.time_out(call.texts)
        case "answer lost once":
            workflow.aws.lose_answer(call.texts, times=1)
        case "every answer lost":
            workflow.aws.lose_answer(call.texts)
        case "slow":
            workflow.aws.slow_down(call.texts)
        case "killed once" | "always killed":
            lose = dict.fromkeys(OWN_CALLS, workflow.abort_callback) | {"RunCallback": workflow.abort_healing}
            action = lose.get(call.state, kill_process)
            workflow.aws.run_after(call.texts, action, times=1 if fault == "killed once" else ALWAYS)
        case _:
            raise ValueError(fault)


def break_sentry(workflow: Workflow, fault: str) -> None:
    workflow.sentry.status = {"throttled": 429, "server error": 500, "timeout": 503}.get(fault, 200)
    workflow.sentry.unanswered = {"timeout": ALWAYS, "answer lost once": 1, "every answer lost": ALWAYS}.get(fault, 0)
    workflow.sentry.delay_seconds = 1 if fault == "slow" else 0
    if "killed" in fault:
        workflow.functions.run_after("ReportToSentry", kill_process, times=1 if fault == "killed once" else ALWAYS)


def refuse_invokes(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, *THROTTLES["Invoke"])


# Takes the call, and what to do when the fault begins; returns the execution that the delivery started.
Path = Callable[[Workflow, Call, Callable[[], None]], Execution]


def deliver(workflow: Workflow, _: Call, begin_fault: Callable[[], None]) -> Execution:
    begin_fault()
    return workflow.run(DELIVERY)


def deliver_to_be_checked(workflow: Workflow, _: Call, begin_fault: Callable[[], None]) -> Execution:
    forget_secrets(workflow)
    put_secret()
    create_tables()
    put_order()
    workflow.deploy(SignatureMode="enforce", CrossCheckMode="enforce")
    begin_fault()
    return workflow.run(delivery())


def deliver_unconfirmed(workflow: Workflow, _: Call, begin_fault: Callable[[], None]) -> Execution:
    break_call(workflow, CONFIRM, "throttled")
    begin_fault()
    return workflow.run(DELIVERY)


def deliver_and_fail(workflow: Workflow, call: Call, begin_fault: Callable[[], None]) -> Execution:
    refuse_invokes(workflow)
    if call == CLOSE_WINDOW:
        break_call(workflow, SEND, "throttled")
    if call in {READ_WINDOW, COUNT_REPEAT}:
        workflow.run(DELIVERY | {"requestId": "the-first-of-its-kind"})
        workflow.functions.replace_container("SendErrorEmail")
    begin_fault()
    return workflow.run(DELIVERY)


def break_the_tables(workflow: Workflow) -> None:
    """Let the parked delivery be the only trace of a delivery."""
    for call in (SAVE, LOG):
        break_call(workflow, call, "throttled")


def deliver_and_park(workflow: Workflow, _: Call, begin_fault: Callable[[], None]) -> Execution:
    break_the_tables(workflow)
    begin_fault()
    return workflow.run(DELIVERY)


def heal_a_parked_delivery(workflow: Workflow, _: Call, begin_fault: Callable[[], None]) -> Execution:
    break_the_tables(workflow)
    delivered = workflow.run(DELIVERY)
    workflow.recover()
    begin_fault()
    workflow.heal()
    return delivered


def heal_a_lost_execution(workflow: Workflow, _: Call, begin_fault: Callable[[], None]) -> Execution:
    workflow.functions.run_after("SaveCallbackRecord", workflow.abort_callback)
    delivered = workflow.run(DELIVERY)
    begin_fault()
    workflow.heal()
    return delivered


def heal_a_failure(workflow: Workflow, call: Call, begin_fault: Callable[[], None]) -> Execution:
    refuse_invokes(workflow)
    delivered = workflow.run(DELIVERY)
    if call != LOG_AGAIN:
        workflow.recover()
    begin_fault()
    workflow.heal()
    return delivered


PATHS: dict[str, Path] = {
    "delivery": deliver,
    "checked delivery": deliver_to_be_checked,
    "unconfirmed delivery": deliver_unconfirmed,
    "failed delivery": deliver_and_fail,
    "unlogged delivery": deliver_and_park,
    "healing of a parked delivery": heal_a_parked_delivery,
    "healing of a lost execution": heal_a_lost_execution,
    "healing of a failure": heal_a_failure,
    "redrive": heal_a_failure,
}


def redelivery(path: str) -> dict[str, Any]:
    """Return the path's delivery as the gateway delivers it again."""
    return (delivery() if path == "checked delivery" else DELIVERY) | AGAIN


def status_of(delivered: Execution) -> int:
    """Return the status of the HTTP answer; API Gateway answers 500 for an execution that did not succeed."""
    return delivered.answer[0] if delivered.status == "SUCCEEDED" else 500


def expected_end(path: str, call: Call, fault: str) -> str:
    """Return how the execution that the path's delivery started ends."""
    is_aborted = "killed" in fault and (path, call) in {
        ("unconfirmed delivery", CONFIRM_AGAIN),
        ("unlogged delivery", PARK),
    }
    if is_aborted or path == "healing of a lost execution":
        return "ABORTED"
    is_logged = call != LOG and path not in {"unlogged delivery", "healing of a parked delivery"}
    return "SUCCEEDED" if is_logged else "FAILED"


def assert_all_is_well(workflow: Workflow) -> None:
    """The payment was dispatched unchanged, its record says so, and nothing is left to do."""
    records = workflow.records
    (dispatched,) = {record["dispatchedBy"] for record in records}
    assert dispatched in {record["deliveryId"] for record in records}
    assert not any("undispatchedSince" in record for record in records)
    assert {payload for _, _, payload in workflow.dispatched} == {body_of("paid").encode()}
    assert workflow.parked == []
    assert all(row["status"] == "resolved" and "queue" not in row for row in workflow.errors)


def assert_is_duplicate(workflow: Workflow, again: dict[str, Any]) -> None:
    """One more delivery changes nothing."""
    calls = len(workflow.dispatched)
    status, answer = workflow.run(again).answer
    assert (status, answer["duplicate"], len(workflow.dispatched)) == (200, True, calls)


def as_markdown(rows: list[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def published(mark: str) -> str:
    """Return the table that is published between <!-- mark --> and <!-- /mark -->."""
    text = PUBLISHED_IN.read_text()
    return text.partition(f"<!-- {mark} -->")[2].partition(f"<!-- /{mark} -->")[0].strip()
