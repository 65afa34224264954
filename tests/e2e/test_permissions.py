"""Each permission of a task's role is needed: without it, IAM refuses a call of the task."""

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer

from local.views import PROCESS_PAID
from tests.e2e.conftest import Local, MakeBody, changed_policies, without_permissions
from tests.outcomes import body_of
from tests.sources import CHECKS, FUNCTIONS, statements_of

RECORDS = "payment3-wallet-callback-record-local"
ERRORS = "payment3-callback-error-log-local"
LEDGER = "payment3-payment-ledger-local"
ALERTS = "payment3-callback-alert-local"
YEAR_2100 = 4102444800
CHANNEL = {"channel": "BankApp", "functionName": "bankappcallback"}
RECEIVED_AT = "2026-11-22T10:00:00.000Z"


class Task:
    """One function of the stack, with an id that only this test uses."""

    def __init__(self, local: Local, name: str) -> None:
        self._local = local
        self._name = name
        self.id = uuid.uuid4().hex[:12]

    def run(self, **event: Any) -> str:
        """Invoke the function as its state does; return its answer as text."""
        return self.run_logged(**event)[0]

    def run_logged(self, **event: Any) -> tuple[str, str]:
        """Invoke the function; return its answer and the end of its log, as text."""
        answer = self._local.stack.client("lambda").invoke(
            FunctionName=f"payment3-{self._name}-local", Payload=json.dumps(event), LogType="Tail"
        )
        return answer["Payload"].read().decode(), base64.b64decode(answer.get("LogResult", "")).decode()

    def client(self, service: str) -> Any:
        return self._local.stack.client(service)

    def items(self, table: str) -> str:
        """Return all items of a table as text."""
        return str(self._local.stack.client("dynamodb").scan(TableName=table)["Items"])

    def put(self, table: str, **item: Any) -> None:
        values = {name: TypeSerializer().serialize(value) for name, value in item.items() if value is not None}
        self._local.stack.client("dynamodb").put_item(TableName=table, Item=values)

    def change(self, table: str, key: dict[str, str], update: str, values: dict[str, Any]) -> None:
        self._local.stack.client("dynamodb").update_item(
            TableName=table,
            Key={name: {"S": value} for name, value in key.items()},
            UpdateExpression=update,
            ExpressionAttributeValues=values,
        )

    @property
    def answer_url(self) -> str:
        """Where the emulator receives the answers of custom resources; it ignores any that it does not expect."""
        return f"{self._local.stack.endpoint}/_ministack/cfn-response/{self.id}"

    @property
    def callback(self) -> dict[str, Any]:
        return {
            "orderId": self.id,
            "paymentId": f"pay_{self.id}",
            "userId": "u",
            "success": True,
            "amount": "1",
            "message": None,
            "extra": "{}",
            "body": "{}",
            "requestId": self.id,
            "receivedAt": RECEIVED_AT,
            "deliveryId": f"{RECEIVED_AT}#{self.id}",
            "sourceIp": None,
            "signatureHeaders": None,
            "decision": None,
        }

    @property
    def record(self) -> dict[str, Any]:
        return {**self.callback, "amount": None, "channel": "BankApp", "executionArn": "a", "signature": "skipped"}


def save(task: Task) -> str:
    delivery = {
        "body": json.dumps({name: task.callback[name] for name in ("orderId", "paymentId", "userId", "success")})
    }
    names = {"table": RECORDS, "executionArn": "a", "signature": "skipped"}
    return task.run(**CHANNEL, **names, delivery=delivery, callback=task.callback)


def dispatch(task: Task) -> str:
    return task.run(
        channel="BankApp",
        function=PROCESS_PAID,
        table=RECORDS,
        callback=task.callback,
        verdicts={"crossCheck": "skipped", "inquiry": "skipped"},
        body="{}",
        secondPaymentMode="warn",
    )


def confirm(task: Task) -> str:
    """A refused confirmation fails nothing: ConfirmDispatch makes it."""
    task.put(RECORDS, **task.record)
    return "UpdateItem operation" if not json.loads(dispatch(task))["isConfirmed"] else ""


def compare(task: Task) -> str:
    """A refused lookup fails nothing: the payment is dispatched, and the warning goes out."""
    return "Query operation" if "PaymentsNotCompared" in dispatch(task) else ""


def dispatch_twice(task: Task) -> str:
    """A duplicate reads the ledger."""
    dispatch(task)
    return dispatch(task)


def dispatch_unfinished(task: Task) -> str:
    """An attempt that finds an expired claim reads the record of the delivery that held it."""
    dispatch(task)
    task.change(
        LEDGER,
        {"orderKey": f"BankApp#{task.id}", "paymentId": task.callback["paymentId"]},
        "SET claimedBy = dispatchedBy, claimedUntil = :past, attemptId = :past REMOVE dispatchedBy",
        {":past": {"S": RECEIVED_AT}},
    )
    return dispatch(task)


def report(task: Task) -> str:
    return task.run(report=report_of(task, task.id), event={"body": body_of("paid"), "requestId": task.id})


def report_of(task: Task, error: str) -> dict[str, Any]:
    names = {"executionArn": task.id, "executionName": task.id, "occurredAt": RECEIVED_AT, "startedAt": RECEIVED_AT}
    return {**CHANNEL, **names, "failure": {"SaveCallbackRecord": {"Error": error, "Cause": ""}}}


def report_and_count(task: Task) -> str:
    """A refused count fails nothing, and the e-mail goes out."""
    report(task)
    return "" if task.id in task.items(ALERTS) else "UpdateItem operation"


def report_repeatedly(task: Task) -> str:
    """A refused look at the window that another failure opened fails nothing, and the e-mail goes out."""
    kind = f"bankappcallback#SaveCallbackRecord#{task.id}"
    task.put(ALERTS, kind=kind, windowEndsAt=YEAR_2100, openedBy="another", expiration=YEAR_2100)
    report(task)
    return "" if f"{kind}#{YEAR_2100}#" in task.items(ALERTS) else "GetItem operation"


def report_count(task: Task) -> str:
    kind = {"functionName": "bankappcallback", "step": "SaveCallbackRecord", "error": task.id}
    times = {"since": RECEIVED_AT, "lastAt": RECEIVED_AT, "windowEndsAt": 1, "expiration": YEAR_2100}
    task.put(ALERTS, kind=task.id, channel="BankApp", **kind, **times, failures=1, lastOrder="o", lastRequest="r")
    return task.run(channel="BankApp")


def send_digest(task: Task) -> str:
    row = {
        "requestId": task.id,
        "status": "open",
        "attempts": 0,
        "step": "s",
        "error": "PaymentConflict",
        "event": "{}",
    }
    queue = {"queue": "BankApp#0#operator", "queuedAt": RECEIVED_AT, "lane": "healing"}
    task.put(ERRORS, **row, **queue, **CHANNEL, receivedAt=RECEIVED_AT, occurredAt=RECEIVED_AT)
    return task.run(channel="BankApp")


def park(task: Task) -> str:
    """Return the URL of the queue, in which a parked failure waits."""
    sqs = task.client("sqs")
    url: str = sqs.get_queue_url(QueueName="payment3-callback-parked-local")["QueueUrl"]
    body = {"report": report_of(task, "ServiceUnavailable"), "event": {}}
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps(body))
    return url


def take(task: Task) -> str:
    """A message that was received and not deleted would be invisible to the next call."""
    url = park(task)
    answer = task.run()
    task.client("sqs").purge_queue(QueueUrl=url)
    return answer


def collect(task: Task, **selection: Any) -> str:
    task.put(RECORDS, **task.record, shard="BankApp#0", undispatchedSince=RECEIVED_AT)
    return task.run(**CHANNEL, table=RECORDS, selection=selection)


def collect_order(task: Task) -> str:
    return collect(task, orderId=task.id)


def dry_collect(task: Task) -> str:
    return collect(task, orderId=task.id, dryRun=True)


def put_failure(task: Task) -> None:
    row = {"requestId": task.id, "status": "open", "attempts": 0, "error": "ServiceUnavailable", "event": "{}"}
    queued = {"lane": "healing", "queue": "BankApp#0#healing", "queuedAt": RECEIVED_AT}
    task.put(ERRORS, **row, **CHANNEL, **queued, receivedAt=RECEIVED_AT, occurredAt=RECEIVED_AT)


def find(task: Task) -> str:
    return find_selected(task)


def find_selected(task: Task, **selection: Any) -> str:
    return task.run(**CHANNEL, selection=selection, state={}, startedAt=RECEIVED_AT)


def find_one(task: Task) -> str:
    put_failure(task)
    return find_selected(task, requestId=task.id)


def claim(task: Task) -> str:
    put_failure(task)
    return task.run(requestId=task.id, isManual=True)


def settle(task: Task) -> str:
    put_failure(task)
    return task.run(requestId=task.id, attempt=0, lane="healing", isManual=True, run={"Status": "FAILED"})


def verify(task: Task) -> str:
    delivery = {"body": "{}", "requestId": task.id, "receivedAt": 0, "headers": {"x-signature": "00"}}
    scheme = {"scheme": "plain", "header": "x-signature", "encoding": "hex", "secret": "kbank-local"}
    return task.run(delivery=delivery, executionName="e", startedAt=RECEIVED_AT, mode="enforce", **scheme)


def cross_check(task: Task) -> str:
    task.put("order-table-dev", orderId=task.id, userId="u", total=1)
    orders = {"table": "order-table-dev", "key": "orderId", "user": "userId", "total": "total"}
    payments = {"table": "payment3-card-payment-record-master", "key": "paymentId", "order": "o", "amount": "a"}
    payments |= {"required": "false"}
    return task.run(callback=task.callback, mode="enforce", orders=orders, payments=payments)


def inquire(task: Task) -> str:
    return task.run(callback=task.callback, mode="enforce", secret="kbank-local")


def reopen(task: Task) -> str:
    """A message that fails is named in the answer, and why is not."""
    failed = reopen_logged(task)[0]
    return "GetItem operation, UpdateItem operation" if failed else ""


def reopen_reporting(task: Task) -> str:
    """A report that is refused fails nothing, but is logged."""
    return "Invoke operation" if "Report not started" in reopen_logged(task)[1] else ""


def reopen_logged(task: Task) -> tuple[bool, str]:
    """Return whether the message failed, and the function's log."""
    task.put(RECORDS, **task.record)
    payment = {"orderKey": f"BankApp#{task.id}", "paymentId": task.callback["paymentId"], "dispatches": 1}
    task.put(LEDGER, **payment, dispatchedBy=task.callback["deliveryId"], invokeRequestId=task.id)
    payload = {name: task.callback[name] for name in ("orderId", "paymentId")}
    body = json.dumps({"requestContext": {"requestId": task.id}, "requestPayload": payload})
    answer, log = task.run_logged(Records=[{"messageId": task.id, "body": body}])
    return task.id in answer, log


def deploy(task: Task, check: str) -> str:
    properties = {
        **dict.fromkeys(CHECKS.values(), "off"),
        check: "enforce",
        "SignatureScheme": "standard",
        "Secret": "kbank-local",
        "InquirySecret": "kbank-local",
        "Orders": {"table": "order-table-dev", "key": "orderId"},
        "Payments": {"table": "payment3-card-payment-record-master", "key": "paymentId"},
    }
    ids = dict.fromkeys(("StackId", "RequestId", "LogicalResourceId"), task.id)
    return task.run(RequestType="Create", ResponseURL=task.answer_url, ResourceProperties=properties, **ids)


def deploy_signature(task: Task) -> str:
    return deploy(task, "SignatureMode")


def deploy_cross_check(task: Task) -> str:
    return deploy(task, "CrossCheckMode")


# Function, action, end of the resource (if there are several), and the function that makes the call.
PERMISSIONS: list[tuple[str, str, str, Callable[[Task], str]]] = [
    ("VerifySignature", "secretsmanager:GetSecretValue", "", verify),
    ("SaveCallbackRecord", "dynamodb:PutItem", "", save),
    ("SaveCallbackRecord", "dynamodb:GetItem", "", save),
    ("CrossCheckPayment", "dynamodb:GetItem", "order-table-dev", cross_check),
    ("CrossCheckPayment", "dynamodb:GetItem", "payment3-card-payment-record-master", cross_check),
    ("InquirePayment", "secretsmanager:GetSecretValue", "", inquire),
    ("InvokeProcessPaid", "dynamodb:UpdateItem", LEDGER, dispatch),
    ("InvokeProcessPaid", "dynamodb:UpdateItem", RECORDS, confirm),
    ("InvokeProcessPaid", "lambda:InvokeFunction", "", dispatch),
    ("InvokeProcessPaid", "dynamodb:Query", LEDGER, compare),
    ("InvokeProcessPaid", "dynamodb:Query", "/index/byPaymentId", compare),
    ("InvokeProcessPaid", "dynamodb:GetItem", LEDGER, dispatch_twice),
    ("InvokeProcessPaid", "dynamodb:GetItem", RECORDS, dispatch_unfinished),
    ("WriteErrorLog", "dynamodb:UpdateItem", "", report),
    ("SendErrorEmail", "dynamodb:UpdateItem", "", report_and_count),
    ("SendErrorEmail", "dynamodb:GetItem", "", report_repeatedly),
    ("SendErrorEmail", "ses:SendEmail", "", report),
    ("TakeParked", "sqs:ReceiveMessage", "", take),
    ("TakeParked", "sqs:DeleteMessage", "", take),
    ("TakeParked", "dynamodb:UpdateItem", "", take),
    ("CollectUndispatched", "dynamodb:Query", "/index/undispatched", collect),
    ("CollectUndispatched", "dynamodb:Query", RECORDS, collect_order),
    ("CollectUndispatched", "dynamodb:BatchGetItem", "", dry_collect),
    ("CollectUndispatched", "dynamodb:GetItem", "", collect),
    ("CollectUndispatched", "dynamodb:UpdateItem", ERRORS, collect),
    ("CollectUndispatched", "dynamodb:UpdateItem", RECORDS, collect),
    ("FindFailures", "dynamodb:GetItem", "", find_one),
    ("FindFailures", "dynamodb:Query", "", find),
    ("ClaimFailure", "dynamodb:GetItem", "", claim),
    ("ClaimFailure", "dynamodb:UpdateItem", "", claim),
    ("SettleFailure", "dynamodb:GetItem", "", settle),
    ("SettleFailure", "dynamodb:UpdateItem", "", settle),
    ("ReopenPayment", "dynamodb:GetItem", LEDGER, reopen),
    ("ReopenPayment", "dynamodb:GetItem", RECORDS, reopen),
    ("ReopenPayment", "dynamodb:GetItem", ERRORS, reopen),
    ("ReopenPayment", "dynamodb:UpdateItem", LEDGER, reopen),
    ("ReopenPayment", "dynamodb:UpdateItem", ERRORS, reopen),
    ("ReopenPayment", "lambda:InvokeFunction", "ReportToSentry-local", reopen_reporting),
    ("ReopenPayment", "lambda:InvokeFunction", "SendErrorEmail-local", reopen_reporting),
    *(
        ("ReportSuppressed", action, "", report_count)
        for action in ("dynamodb:Scan", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "ses:SendEmail")
    ),
    ("SendDigest", "dynamodb:Query", "", send_digest),
    ("SendDigest", "ses:SendEmail", "", send_digest),
    ("CheckReadiness", "secretsmanager:GetSecretValue", "", deploy_signature),
    ("CheckReadiness", "dynamodb:GetItem", "order-table-dev", deploy_cross_check),
    ("CheckReadiness", "dynamodb:GetItem", "payment3-card-payment-record-master", deploy_cross_check),
]


# Where the operation has another name than the action.
OPERATIONS = {"lambda:InvokeFunction": "Invoke", "sqs:DeleteMessage": "DeleteMessageBatch"}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def without(action: str, resource: str) -> Callable[[Any], Any]:
    """Return a function that removes an action, on resources that end with `resource`, from a policy."""

    def change(policy: Any) -> Any:
        statements = []
        for statement in policy["Statement"]:
            kept = [
                name
                for name in as_list(statement["Resource"])
                if action not in as_list(statement["Action"]) or not name.endswith(resource)
            ]
            others = [name for name in as_list(statement["Action"]) if name != action]
            if kept:
                statements.append(statement | {"Resource": kept})
            elif others:
                statements.append(statement | {"Action": others})
        return policy | {"Statement": statements} if statements else None

    return change


@pytest.mark.parametrize(("function", "action", "resource", "make_call"), PERMISSIONS)
def test_a_call_is_refused_without_its_permission(
    local: Local, function: str, action: str, resource: str, make_call: Callable[[Task], str]
) -> None:
    operation = OPERATIONS.get(action, action.partition(":")[2])
    refused = f"{operation} operation"
    # In this order, because a process keeps what it read while it had the permission.
    with changed_policies(local, function, without(action, resource)):
        assert refused in make_call(Task(local, function))
    assert refused not in make_call(Task(local, function))


def test_the_list_covers_every_permission_of_every_task() -> None:
    given = {
        (function, action)
        for function in FUNCTIONS
        for statement in statements_of(f"{function}Role")
        for action in statement["Action"]
        # The emulator lets every function write logs and traces, and read the queue of its event source mapping.
        if not action.startswith(("logs:", "xray:")) and (function, action[:4]) != ("ReopenPayment", "sqs:")
    }
    assert given == {(function, action) for function, action, _, _ in PERMISSIONS}


@pytest.mark.parametrize("step", ["SaveCallbackRecord", "InvokeProcessPaid"])
def test_a_step_without_its_permissions_fails_and_is_reported(local: Local, make_body: MakeBody, step: str) -> None:
    with without_permissions(local, step):
        answer = local.post(make_body())
    assert answer.status == 500
    assert answer.body["error"] == f"Internal error, request id {answer.request_id}"
    (error,) = local.errors_of(answer)
    assert error["step"] == step
    assert "AccessDenied" in error["cause"]
    assert local.post(make_body()).status == 200


def test_the_other_reports_go_out_if_the_error_log_cannot_be_written(local: Local) -> None:
    with without_permissions(local, "WriteErrorLog"):
        answer = local.post("{}")
    local.unreported.add(answer.request_id)
    assert answer.status == 500
    assert local.errors_of(answer) == []
    assert len(local.mails_of(answer)) == len(local.sentry_events_of(answer)) == 1


def test_the_other_reports_go_out_if_no_email_can_be_sent(local: Local) -> None:
    with without_permissions(local, "SendErrorEmail"):
        answer = local.post("{}")
    assert answer.status == 500
    assert local.mails_of(answer) == []
    assert len(local.errors_of(answer)) == len(local.sentry_events_of(answer)) == 1
