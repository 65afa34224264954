"""The stack of `make run` with IAM enforced, once for all end-to-end tests."""

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from local.server import Server, sentry_dsn, serving
from local.stack import STACK_NAME, Stack, free_ports

# Every failure is mailed, and healing starts as soon as it can on AWS.
PARAMETERS = {"AlertWindowMinutes": "0", "HealingMinutes": "1", "DispatchAgeMinutes": "1", "RedriveDelayMinutes": "0"}
CALLBACK_PATH = "/bankapp/callback"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


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
        request_id = answer.headers["x-amzn-RequestId"]
        return [error for error in self.server.desk.errors() if error["requestId"] == request_id]

    def mails_of(self, answer: Answer) -> list[dict[str, Any]]:
        request_id = answer.headers["x-amzn-RequestId"]
        return [mail for mail in self.server.desk.mails() if request_id in mail["BodyText"]]

    def sentry_events_of(self, answer: Answer) -> list[dict[str, Any]]:
        request_id = answer.headers["x-amzn-RequestId"]
        events = self.server.desk.sentry()
        return [event for event in events if event["contexts"]["execution"]["requestId"] == request_id]

    def payloads_of(self, order_id: str, at_least: int = 1) -> list[str]:
        """Return what process-paid was called with for the orders whose id starts so, as it came.

        The calls are asynchronous: wait for as many as expected, and a moment longer for one that should not come.
        """
        deadline = time.monotonic() + 10
        while len(self._payloads_of(order_id)) < at_least and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.7)
        return self._payloads_of(order_id)

    def _payloads_of(self, order_id: str) -> list[str]:
        payloads = [call["payload"] for call in self.server.desk.process_paid()]
        return [payload for payload in payloads if json.loads(payload)["orderId"].startswith(order_id)]


@contextmanager
def without_permissions(local: Local, function: str) -> Iterator[None]:
    """Take the inline policies of a function's role away for the time of a `with` block."""
    iam = local.stack.client("iam")
    resource = local.stack.client("cloudformation").describe_stack_resource(
        StackName=STACK_NAME, LogicalResourceId=f"{function}Role"
    )
    role = resource["StackResourceDetail"]["PhysicalResourceId"]
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    assert names, f"{function} has no permissions that could be taken away"
    policies = {name: iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names}
    for name in names:
        iam.delete_role_policy(RoleName=role, PolicyName=name)
    try:
        yield
    finally:
        for name, policy in policies.items():
            iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))


@pytest.fixture(scope="session")
def local() -> Iterator[Local]:
    aws_port, api_port = free_ports(2)
    with (
        Stack(aws_port, sentry_dsn(api_port), enforce_iam=True, wait_scale=0.1, parameters=PARAMETERS) as stack,
        serving(stack, api_port, list[str]().append) as server,
    ):
        local = Local(stack, server)
        # Otherwise it runs again what a test has just let fail and wants to look at.
        local.set_schedule("DISABLED")
        yield local


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
            "amount": 2339.0,
            "userId": "b5f392f7-6d89-433c-b24f-bf6a772cab1a",
            "message": "Payment successful",
        } | fields
        return json.dumps({field: value for field, value in body.items() if value is not None}, ensure_ascii=False)

    return make
