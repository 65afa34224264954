"""The stack of `make run` with IAM enforced, once for all end-to-end tests; and again with the checks enforced."""

import copy
import http.client
import json
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from samcli.yamlhelper import yaml_parse

from local.server import Server, sentry_dsn, serving
from local.stack import ROOT, STACK_NAME, Stack, free_ports
from tests.signing import signature_headers

# Every failure is mailed, and healing starts as soon as it can on AWS.
PARAMETERS = {"AlertWindowMinutes": "0", "HealingMinutes": "1", "DispatchAgeMinutes": "1", "RedriveDelayMinutes": "0"}
# Only callbacks that the bank signed and that agree with their order are paid; a flood of others is few mails.
GUARDED = {
    "SignatureMode": "enforce",
    "CrossCheckMode": "enforce",
    "AllowedSourceIps": "127.0.0.1/32",
    "AlertWindowMinutes": "60",
}
CALLBACK_PATH = "/bankapp/callback"
USER_ID = "b5f392f7-6d89-433c-b24f-bf6a772cab1a"
TOTAL = 2339

ACCOUNT = yaml_parse((ROOT / "local/account.yaml").read_text())["Resources"]
BANK_KEY: str = json.loads(ACCOUNT["BankSecret"]["Properties"]["SecretString"])["webhookSecrets"][0]

# As long as API Gateway waits for its backend.
ANSWER_SECONDS = 29

type Headers = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def request_id(self) -> str:
        """The id by which the delivery is known."""
        return re.sub("[^A-Za-z0-9_-]", "", self.headers["x-amz-apigw-id"])


@dataclass(frozen=True)
class Local:
    """The running stack as a test uses it."""

    stack: Stack
    server: Server

    def post(self, body: str | bytes, content_type: str = "application/json", path: str = CALLBACK_PATH) -> Answer:
        """Send a callback; fail where the answer is not JSON."""
        return self.request("POST", path, body if isinstance(body, bytes) else body.encode(), content_type)

    def request(self, method: str, path: str, body: bytes | None = None, content_type: str | None = None) -> Answer:
        headers = {"Content-Type": content_type} if content_type else {}
        request = urllib.request.Request(self.server.url + path, body, headers, method=method)
        try:
            response = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            assert response.headers["Content-Type"] == "application/json"
            return Answer(response.status, dict(response.headers), json.loads(response.read()))

    def set_schedule(self, state: str) -> None:
        """Let the schedule of the healing workflow be ENABLED or DISABLED."""
        scheduler = self.stack.client("scheduler")
        (name,) = (schedule["Name"] for schedule in scheduler.list_schedules()["Schedules"])
        known = ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")
        deployed = scheduler.get_schedule(Name=name)
        assert deployed["State"] != state
        scheduler.update_schedule(**{member: deployed[member] for member in known}, State=state)

    def records_of(self, order_id: str) -> list[dict[str, Any]]:
        return [record for record in self.server.desk.records() if record["orderId"] == order_id]

    def errors_of(self, answer: Answer) -> list[dict[str, Any]]:
        return [error for error in self.server.desk.errors() if error["requestId"] == answer.request_id]

    def mails_of(self, answer: Answer) -> list[dict[str, Any]]:
        return [mail for mail in self.server.desk.mails() if answer.request_id in mail["BodyText"]]

    def sentry_events_of(self, answer: Answer) -> list[dict[str, Any]]:
        events = self.server.desk.sentry()
        return [event for event in events if event["contexts"]["execution"]["requestId"] == answer.request_id]

    def payloads_of(self, order_id: str, at_least: int = 1) -> list[str]:
        """Return what process-paid was called with for the orders whose id starts so, as it came.

        The calls are asynchronous: wait for as many as expected, and a moment longer for one that should not come.
        """
        deadline = time.monotonic() + 10
        while len(self.payloads_so_far(order_id)) < at_least and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.7)
        return self.payloads_so_far(order_id)

    def payloads_so_far(self, order_id: str) -> list[str]:
        payloads = [call["payload"] for call in self.server.desk.process_paid()]
        return [payload for payload in payloads if json.loads(payload)["orderId"].startswith(order_id)]

    def statuses(self) -> set[str]:
        """How the executions of the callback workflow ended."""
        pages = self.stack.client("stepfunctions").get_paginator("list_executions")
        executions = pages.paginate(stateMachineArn=self.stack.outputs["StateMachineArn"]).search("executions[]")
        return {execution["status"] for execution in executions}


@dataclass(frozen=True)
class Guarded(Local):
    """The running stack with its checks enforced, as the bank and others use it."""

    def put_order(self, order_id: str) -> None:
        item = {"orderId": {"S": order_id}, "userId": {"S": USER_ID}, "total": {"N": str(TOTAL)}}
        self.stack.client("dynamodb").put_item(TableName="order-table-dev", Item=item)

    def send(
        self,
        body: str | bytes,
        headers: Headers = (),
        method: str = "POST",
        path: str = CALLBACK_PATH,
        source: str = "127.0.0.1",
    ) -> Answer:
        """Send these headers and no others, each as often as it is there; fail where the answer is not JSON."""
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


def signed(
    body: str, key: str = BANK_KEY, message_id: str = "msg_1", signed_at: datetime | None = None
) -> dict[str, str]:
    """Return the headers of a callback that the holder of a key signs, as a rule the bank, and now."""
    signature = signature_headers(body, key, signed_at or datetime.now(UTC), message_id)
    return {"Content-Type": "application/json", **signature}


@contextmanager
def changed_policies(local: Local, function: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Put what `change` makes of each inline policy of a function's role in its place, for the time of a `with` block.

    A policy that becomes None is taken away.
    """
    iam = local.stack.client("iam")
    resource = local.stack.client("cloudformation").describe_stack_resource(
        StackName=STACK_NAME, LogicalResourceId=f"{function}Role"
    )
    role = resource["StackResourceDetail"]["PhysicalResourceId"]
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    assert names, f"{function} has no permissions that could be taken away"
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
    """Take all inline policies of a function's role away."""
    return changed_policies(local, function, lambda _: None)


@contextmanager
def running[L: Local](kind: type[L], parameters: Mapping[str, str]) -> Iterator[L]:
    """Run the stack with IAM enforced, for the time of a `with` block."""
    aws_port, api_port = free_ports(2)
    with (
        Stack(aws_port, sentry_dsn(api_port), enforce_iam=True, wait_scale=0.1, parameters=parameters) as stack,
        serving(stack, api_port, list[str]().append) as server,
    ):
        local = kind(stack, server)
        # Otherwise it runs again what a test has just let fail and wants to look at.
        local.set_schedule("DISABLED")
        yield local


@pytest.fixture(scope="session")
def local() -> Iterator[Local]:
    with running(Local, PARAMETERS) as local:
        yield local


@pytest.fixture(scope="session")
def guarded() -> Iterator[Guarded]:
    with running(Guarded, GUARDED) as guarded:
        yield guarded


@pytest.fixture
def order_id() -> str:
    """An order of this test's own."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def make_body(order_id: str) -> Callable[..., str]:
    """Return a function that makes a paid callback's body; its arguments replace fields, None takes one away."""

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
