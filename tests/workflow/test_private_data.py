"""No private data and no text of a caller gets into logs, e-mails or Sentry, on any path of a callback."""

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.signing import signature_headers
from tests.workflow.account import INVOKE, SAVE_ERROR, SAVE_RECORD, SEND_MAIL, Call, Workflow, client
from tests.workflow.genuine import create_tables, forget_secrets, put_order

USER = "user-4f1b-private"
AMOUNT = "98765.43210123"
MESSAGE = "paid-by-private-person"
AGENT = "private-agent/1.0"
KEY = base64.b64encode(b"private key of the bank").decode()
PRIVATE = [USER, AMOUNT, MESSAGE, AGENT, KEY, "private key of the bank"]
Play = Callable[[Workflow], object]
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


def delivery(**fields: Any) -> dict[str, Any]:
    """Return a signed callback full of private data; its ids are not private."""
    body = {"orderId": "order-1", "paymentId": "pay-1", "userId": USER, "success": True, "message": MESSAGE} | fields
    text = json.dumps(body).replace("}", f', "amount": {AMOUNT}}}') if "amount" not in fields else json.dumps(body)
    return {
        "body": text,
        "requestId": "8f7e6d5c",
        "receivedAt": int(NOW.timestamp() * 1000),
        "sourceIp": "203.0.113.7",
        "headers": {"user-agent": AGENT, **signature_headers(text, KEY, NOW)},
    }


def deliver_with_order(user: str) -> Play:
    def play(workflow: Workflow) -> None:
        create_tables()
        put_order(orderId="order-1", userId=user, total=1)
        workflow.run(delivery())

    return play


def conflict(workflow: Workflow) -> None:
    workflow.run(delivery())
    workflow.run(delivery(userId=f"{USER}-2") | {"requestId": "another"})


def fail(call: Call) -> Play:
    def play(workflow: Workflow) -> None:
        workflow.aws.refuse(call, "AccessDeniedException")
        workflow.run(delivery())
        workflow.heal()

    return play


def give_up(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", status=500)
    workflow.run(delivery())
    for _ in range(8):
        workflow.heal()


def fail_process_paid(workflow: Workflow) -> None:
    workflow.run(delivery())
    assert workflow.fail_process_paid(error=f"No user {USER}")


def misread_the_secret(workflow: Workflow) -> None:
    client("secretsmanager").put_secret_value(SecretId="kbank-test", SecretString=f"{{'{KEY}'")
    workflow.run(delivery())


# Most paths are the same in each mode of the checks; a check that is off refuses nothing.
PATHS: dict[str, Play] = {
    "paid": lambda workflow: workflow.run(delivery()),
    "declined": lambda workflow: workflow.run(delivery(success=False)),
    "invalid": lambda workflow: workflow.run(delivery(userId=[USER], amount=AMOUNT, success=MESSAGE)),
    "malformed": lambda workflow: workflow.run(delivery() | {"body": delivery()["body"][:-1]}),
    "conflict": conflict,
    "not recorded": fail(SAVE_RECORD),
    "not dispatched": fail(INVOKE),
    "not in the error log": fail(SAVE_ERROR),
    "not mailed": fail(SEND_MAIL),
    "given up": give_up,
    "not processed": fail_process_paid,
}
CHECKED_PATHS: dict[str, Play] = {
    "without an order": lambda workflow: workflow.run(delivery()),
    "another user's order": deliver_with_order("another user"),
    "another total": deliver_with_order(USER),
    "altered": lambda workflow: workflow.run(delivery() | {"body": delivery()["body"] + " "}),
    "a secret that is not JSON": misread_the_secret,
}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the tasks write to their log."""
    stream = io.StringIO()
    handlers: list[Any] = logging.getLogger("payment3-callback").handlers
    before = [handler.setStream(stream) for handler in handlers]
    yield stream
    for handler, earlier in zip(handlers, before, strict=True):
        handler.setStream(earlier)


def told(workflow: Workflow, log: io.StringIO) -> tuple[str, str, str]:
    """Return what the logs, the e-mails and Sentry's events say."""
    mails = (f"{mail.subject}{mail.body}" for mail in workflow.mails)
    return log.getvalue() + "".join(workflow.functions.log), "".join(mails), json.dumps(workflow.sentry.events)


def assert_nothing_private_leaves(workflow: Workflow, log: io.StringIO, play: Play, mode: str) -> None:
    forget_secrets(workflow)
    client("secretsmanager").create_secret(Name="kbank-test", SecretString=json.dumps({"webhookSecrets": [KEY]}))
    workflow.deploy(**dict.fromkeys(["SignatureMode", "CrossCheckMode"], mode))
    play(workflow)

    signature = delivery()["headers"]["webhook-signature"].removeprefix("v1,")
    logged, mailed, reported = told(workflow, log)
    # There is something to search.
    assert "order-1" in logged + mailed + reported
    for private in [*PRIVATE, signature]:
        assert private not in logged
        assert private not in mailed
        assert private not in reported


@pytest.mark.parametrize("path", PATHS)
def test_nothing_private_leaves(workflow: Workflow, log: io.StringIO, path: str) -> None:
    assert_nothing_private_leaves(workflow, log, PATHS[path], "off")


@pytest.mark.parametrize("mode", ["warn", "enforce"])
@pytest.mark.parametrize("path", CHECKED_PATHS)
def test_nothing_private_leaves_a_check(workflow: Workflow, log: io.StringIO, path: str, mode: str) -> None:
    assert_nothing_private_leaves(workflow, log, CHECKED_PATHS[path], mode)


# A caller's text

TEXT = "pay now at https://evil.example/"
IDS = {"orderId": f"{TEXT}order", "paymentId": f"{TEXT}payment", "userId": f"{TEXT}user"}
HEADERS = ("content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature", "x-signature")


def letter(request_id: str = "request-1", **fields: Any) -> dict[str, Any]:
    """Return a paid callback with the text wherever a caller can write one."""
    body = {**IDS, "success": True, "amount": 1, "message": TEXT, f"{TEXT}name": {f"{TEXT}inner": [TEXT]}, **fields}
    return {
        "body": json.dumps(body),
        "requestId": request_id,
        "receivedAt": int(NOW.timestamp() * 1000),
        "sourceIp": "203.0.113.7",
        "headers": dict.fromkeys(HEADERS, TEXT),
    }


def write(members: str) -> Play:
    """Deliver a callback with more members, given as JSON text."""
    return lambda workflow: workflow.run(letter() | {"body": f"{letter()['body'][:-1]}, {members}}}"})


def run_in_turn(*deliveries: dict[str, Any]) -> Play:
    def play(workflow: Workflow) -> None:
        for one in deliveries:
            workflow.run(one)

    return play


def give_up_and_send_the_digest(workflow: Workflow) -> None:
    workflow.aws.refuse(INVOKE, "ServiceException", status=500)
    workflow.run(letter())
    for _ in range(8):
        workflow.heal()
    workflow.heal(digest=True)
    assert workflow.mails[-1].subject.endswith("waiting for operators: 1")


def let_process_paid_fail(workflow: Workflow) -> None:
    workflow.run(letter())
    assert workflow.fail_process_paid(error=TEXT)


LETTERS: dict[str, Play] = {
    "paid": run_in_turn(letter()),
    "declined after it was paid": run_in_turn(letter(), letter("request-2", success=False)),
    "a name twice": write(f'"{TEXT}name": 1'),
    "an inner name twice": write(f'"other": {{"{TEXT}": 1, "{TEXT}": 2}}'),
    "no number": write(f'"{TEXT}other": NaN'),
    "a name in another case": write(f'"ORDERID": "{TEXT}"'),
    "wrong types": run_in_turn(letter(userId=[TEXT], success=TEXT, amount=TEXT, message={TEXT: TEXT})),
    "invalid ids": run_in_turn(letter(userId=f"{TEXT} ")),
    "not JSON": run_in_turn(letter() | {"body": letter()["body"][:-1]}),
    "no object": run_in_turn(letter() | {"body": json.dumps(TEXT)}),
    "cut": run_in_turn(letter() | {"bodyLength": 9_000}),
    "conflict": run_in_turn(letter(), letter("request-2", amount=2)),
    "another payment of the order": run_in_turn(letter(), letter("request-2", paymentId=f"{TEXT}other")),
    "the payment of another order": run_in_turn(letter(), letter("request-2", orderId=f"{TEXT}other")),
    "given up": give_up_and_send_the_digest,
    "not processed": let_process_paid_fail,
}


def assert_no_text_leaves(workflow: Workflow, log: io.StringIO, play: Play) -> str:
    play(workflow)
    for said in told(workflow, log):
        assert "evil.example" not in said
        assert "pay now" not in said
    return "".join(told(workflow, log))


@pytest.mark.parametrize("path", LETTERS)
def test_no_caller_writes_to_operators(workflow: Workflow, log: io.StringIO, path: str) -> None:
    said = assert_no_text_leaves(workflow, log, LETTERS[path])
    # There is something to search: an id, or the refusal of a body without one.
    assert "\\u002eexample" in said or path == "no object"
    kept = {row["orderId"] for row in workflow.records + workflow.errors if row.get("orderId")}
    assert kept <= {IDS["orderId"], f"{TEXT}other"}
    for payment in workflow.payments:
        assert payment["orderKey"] in {f"BankApp#{IDS['orderId']}", f"BankApp#{TEXT}other"}
        assert payment["paymentId"] in {IDS["paymentId"], f"{TEXT}other"}
    assert kept or path == "no object"


@pytest.mark.parametrize("mode", ["warn", "enforce"])
def test_no_caller_writes_to_operators_through_a_check(workflow: Workflow, log: io.StringIO, mode: str) -> None:
    forget_secrets(workflow)
    client("secretsmanager").create_secret(Name="kbank-test", SecretString=json.dumps({"webhookSecrets": [KEY]}))
    create_tables()
    workflow.deploy(**dict.fromkeys(["SignatureMode", "CrossCheckMode", "InquiryMode"], mode))
    signed = letter() | {"headers": signature_headers(letter()["body"], KEY, NOW)}
    said = assert_no_text_leaves(workflow, log, run_in_turn(letter(), signed))
    assert "InvalidSignature" in said
    assert "OrderNotFound" in said
