"""The stack of `make run` with IAM enforced: `local` as deployed by default, `guarded` with the checks enforced.

Each stack starts once for all tests, and is examined as a whole when it stops.
"""

import copy
import http.client
import json
import re
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from samcli.yamlhelper import yaml_parse

from callbacks import times
from local.server import Server, sentry_dsn, serving
from local.stack import ROOT, STACK_NAME, Stack, free_ports
from tests.signing import signature_headers

# Every failure sends an e-mail, and healing starts as early as AWS allows.
PARAMETERS = {
    "AlertWindowMinutes": "0",
    "HealingMinutes": "1",
    "DispatchAgeMinutes": "1",
    "RedriveDelayMinutes": "1",
    "WatchProcessPaid": "true",
}
# Only callbacks that the bank signed and that match their order are paid, once per order; others send few e-mails.
GUARDED = {
    "SignatureMode": "enforce",
    "CrossCheckMode": "enforce",
    "AllowedSourceIps": "127.0.0.1/32",
    "SecondPaymentMode": "hold",
    "AlertWindowMinutes": "60",
}
CALLBACK_PATH = "/bankapp/callback"
USER_ID = "b5f392f7-6d89-433c-b24f-bf6a772cab1a"
TOTAL = 2339

ACCOUNT = yaml_parse((ROOT / "local/account.yaml").read_text())["Resources"]
BANK_KEY: str = json.loads(ACCOUNT["BankSecret"]["Properties"]["SecretString"])["webhookSecrets"][0]

# API Gateway waits as long for its backend.
ANSWER_SECONDS = 29
# Only the tests of the bank's own callbacks pay orders with this prefix.
GENUINE = "genuine-"

type Body = dict[str, Any]
type MakeBody = Callable[..., str]
type Headers = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def request_id(self) -> str:
        """The id of the delivery in records, logs and e-mails."""
        return re.sub("[^A-Za-z0-9_-]", "", self.headers["x-amz-apigw-id"])


@dataclass(frozen=True)
class Local:
    """The running stack as a test uses it.

    `unreported` are the request ids of the deliveries whose failure could not be written to the error log.
    """

    stack: Stack
    server: Server
    unreported: set[str] = field(default_factory=set, kw_only=True)

    def post(self, body: str | bytes) -> Answer:
        """Send an unsigned callback."""
        return self.send(body, {"Content-Type": "application/json"})

    def send(
        self,
        body: str | bytes,
        headers: Headers = (),
        method: str = "POST",
        path: str = CALLBACK_PATH,
        source: str = "127.0.0.1",
    ) -> Answer:
        """Send these headers and no others, duplicates included; fail if the answer is not JSON."""
        url = urlsplit(self.server.url)
        content = body if isinstance(body, bytes) else body.encode()
        connection = http.client.HTTPConnection(
            str(url.hostname), url.port, timeout=ANSWER_SECONDS, source_address=(source, 0)
        )
        with closing(connection):
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items() if isinstance(headers, Mapping) else headers:
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            with connection.getresponse() as response:
                assert response.headers["Content-Type"] == "application/json"
                return Answer(response.status, dict(response.headers), json.loads(response.read() or "{}"))

    def view(self, name: str) -> Any:
        """Return one of the local views, read over HTTP."""
        with urllib.request.urlopen(f"{self.server.url}/_local/{name}", timeout=30) as response:
            return json.load(response)

    def set_schedule(self, state: str) -> None:
        """Switch the schedule of the healing workflow to ENABLED or DISABLED."""
        scheduler = self.stack.client("scheduler")
        name = "payment3-bankapp-healing-local"
        known = ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")
        deployed = scheduler.get_schedule(Name=name)
        assert deployed["State"] != state
        scheduler.update_schedule(**{member: deployed[member] for member in known}, State=state)

    def make_due(self, answer: Answer) -> None:
        """Let healing redrive a failed delivery in its next run."""
        self.stack.client("dynamodb").update_item(
            TableName=self.stack.outputs["ErrorLogTableName"],
            Key={"requestId": {"S": answer.request_id}},
            UpdateExpression="SET queuedAt = :now",
            ExpressionAttributeValues={":now": {"S": times.iso(times.now())}},
        )

    def records_of(self, order_id: str) -> list[Body]:
        return [record for record in self.server.views.records() if record["orderId"] == order_id]

    def errors_of(self, answer: Answer) -> list[Body]:
        return [error for error in self.server.views.errors() if error["requestId"] == answer.request_id]

    def mails_of(self, answer: Answer) -> list[Body]:
        return [mail for mail in self.server.views.mails() if answer.request_id in mail["BodyText"]]

    def sentry_events_of(self, answer: Answer) -> list[Body]:
        events = self.server.views.sentry()
        return [event for event in events if event["contexts"]["execution"]["requestId"] == answer.request_id]

    def payloads_of(self, order_id: str) -> list[str]:
        """Return the payloads with which process-paid was called for orders with this prefix, as received.

        Complete once the delivery is answered: a call is recorded before the workflow goes on.
        """
        payloads = [call["payload"] for call in self.server.views.process_paid()]
        return [payload for payload in payloads if json.loads(payload).get("orderId", "").startswith(order_id)]

    def failed(self) -> set[str]:
        """Return the names of the callback workflow's executions that failed as a whole."""
        pages = self.stack.client("stepfunctions").get_paginator("list_executions")
        executions = pages.paginate(stateMachineArn=self.stack.outputs["StateMachineArn"]).search("executions[]")
        return {execution["name"] for execution in executions if execution["status"] != "SUCCEEDED"}


@dataclass(frozen=True)
class Guarded(Local):
    """The running stack with its checks enforced, as used by the bank and by others."""

    def put_order(self, order_id: str) -> None:
        item = {"orderId": {"S": order_id}, "userId": {"S": USER_ID}, "total": {"N": str(TOTAL)}}
        self.stack.client("dynamodb").put_item(TableName="order-table-dev", Item=item)


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Wait until a condition holds; fail if it does not hold within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"Still not after {seconds} s"
        time.sleep(0.1)


def signed(
    body: str, key: str = BANK_KEY, message_id: str = "msg_1", signed_at: datetime | None = None
) -> dict[str, str]:
    """Return the headers of a callback, signed by default by the bank and now."""
    signature = signature_headers(body, key, signed_at or datetime.now(UTC), message_id)
    return {"Content-Type": "application/json", **signature}


@contextmanager
def changed_policies(local: Local, function: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Replace each inline policy of a function's role by `change(policy)` for the duration of a `with` block.

    None removes the policy.
    """
    iam = local.stack.client("iam")
    resource = local.stack.client("cloudformation").describe_stack_resource(
        StackName=STACK_NAME, LogicalResourceId=f"{function}Role"
    )
    role = resource["StackResourceDetail"]["PhysicalResourceId"]
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    assert names, f"{function} has no permissions to remove"
    policies = {name: iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names}
    try:
        for name, policy in policies.items():
            iam.delete_role_policy(RoleName=role, PolicyName=name)
            if (changed := change(copy.deepcopy(policy))) is not None:
                iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(changed))
        yield
    finally:
        for name, policy in policies.items():
            iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))


def without_permissions(local: Local, function: str) -> AbstractContextManager[None]:
    """Remove all inline policies of a function's role."""
    return changed_policies(local, function, lambda _: None)


@contextmanager
def running[L: Local](kind: type[L], parameters: Mapping[str, str]) -> Iterator[L]:
    """Run the stack with IAM enforced for the duration of a `with` block; at its end every execution has an answer.

    Except those that could not report their failure.
    """
    aws_port, api_port = free_ports(2)
    with (
        Stack(aws_port, sentry_dsn(api_port), enforce_iam=True, wait_scale=0.1, parameters=parameters) as stack,
        serving(stack, api_port, list[str]().append) as server,
    ):
        local = kind(stack, server)
        # Otherwise it redrives what a test has just let fail and wants to examine.
        local.set_schedule("DISABLED")
        yield local
        assert local.failed() == local.unreported


@pytest.fixture(scope="session")
def local() -> Iterator[Local]:
    with running(Local, PARAMETERS) as local:
        yield local


@pytest.fixture(scope="session")
def guarded() -> Iterator[Guarded]:
    """At its end only genuine callbacks were dispatched, and each kind of failure has sent one e-mail."""
    with running(Guarded, GUARDED) as guarded:
        yield guarded
        orders = {json.loads(payload)["orderId"] for payload in guarded.payloads_of("")}
        assert {order for order in orders if not order.startswith(GENUINE)} == set()
        mails = [mail["Subject"] for mail in guarded.server.views.mails()]
        kinds = {error["error"] for error in guarded.server.views.errors()}
        assert set(mails) == {f"[local] BankApp callback: {kind}" for kind in kinds}
        # The first e-mail of a kind goes out twice if its answer was lost, or if its window could not be stored.
        assert len(mails) <= 2 * len(kinds)


@pytest.fixture
def order_id() -> str:
    """The id of an order that only this test uses."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def make_body(order_id: str) -> MakeBody:
    """Return a function that makes a paid callback's body; its arguments replace fields, None removes one."""

    def make(**fields: Any) -> str:
        body = {
            "orderId": order_id,
            "paymentId": f"pay_{order_id}",
            "success": True,
            "amount": float(TOTAL),
            "userId": USER_ID,
            "message": "Payment successful",
        } | fields
        return json.dumps({field: value for field, value in body.items() if value is not None}, ensure_ascii=False)

    return make
