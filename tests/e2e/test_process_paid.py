"""A payment for which process-paid fails for good is reported and dispatched again on the local stack."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from local.views import PROCESS_PAID
from tests.e2e.conftest import ACCOUNT, Local, MakeBody, wait_until
from tests.e2e.test_healing import redrive

FAILING = ACCOUNT["ProcessPaidWalletOrderInternal"]["Properties"]["Environment"]["Variables"]["FAILING_ORDERS"]
# Lambda tries process-paid three times, here with short pauses; then four functions start.
FAILED_SECONDS = 30


def received(sqs: Any, queue: str) -> list[str]:
    return [message["Body"] for message in sqs.receive_message(QueueUrl=queue).get("Messages", [])]


@contextmanager
def process_paid_recovered(local: Local) -> Iterator[None]:
    """Let process-paid succeed for all orders for the duration of a `with` block."""
    lambda_client = local.stack.client("lambda")

    def configure(failing: str) -> None:
        lambda_client.update_function_configuration(
            FunctionName=PROCESS_PAID, Environment={"Variables": {"FAILING_ORDERS": failing}}
        )

    configure("none")
    try:
        yield
    finally:
        configure(FAILING)


def test_a_payment_that_process_paid_failed_is_reported_and_dispatched_again(
    local: Local, make_body: MakeBody, order_id: str
) -> None:
    order_id = f"{FAILING}{order_id}"
    body = make_body(orderId=order_id)
    answer = local.post(body)
    assert answer.status == 200

    def payment() -> dict[str, object]:
        (item,) = local.server.views.order(order_id)["ledger"]
        return dict(item)

    # Process-paid may have failed for good by now.
    request_id = payment().get("invokeRequestId") or payment()["failedRequestId"]
    wait_until(lambda: payment().get("failedRequestId") == request_id, FAILED_SECONDS)
    (error,) = local.errors_of(answer)
    assert (error["error"], error["status"], error["attempts"]) == ("ProcessPaidFailed", "open", 0)
    assert error["cause"] == "Lambda gave up: RetriesExhausted; invocations of process-paid: 3; error: RuntimeError"
    wait_until(lambda: local.mails_of(answer) and local.sentry_events_of(answer), FAILED_SECONDS)
    (mail,), (event,) = local.mails_of(answer), local.sentry_events_of(answer)
    assert mail["Subject"] == "[local] BankApp callback: ProcessPaidFailed"
    assert error["cause"] in mail["BodyText"]
    assert event["exception"]["values"] == [{"type": "ProcessPaidFailed", "value": error["cause"]}]

    with process_paid_recovered(local):
        run = redrive(local, "--request", answer.request_id)
        assert run.returncode == 0, run.stdout + run.stderr
    assert local.payloads_of(order_id) == [body, body]
    (error,) = local.errors_of(answer)
    assert (error["status"], error["attempts"]) == ("resolved", 1)


def test_a_message_that_nobody_understands_ends_in_the_dead_letter_queue(local: Local) -> None:
    sqs = local.stack.client("sqs")
    queue, dead_letters = (
        sqs.get_queue_url(QueueName=f"payment3-process-paid-failed{suffix}-local")["QueueUrl"]
        for suffix in ("", "-dead-letters")
    )
    deployed = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["RedrivePolicy", "VisibilityTimeout"])
    # Ten attempts with pauses of three minutes take too long here.
    policy = json.loads(deployed["Attributes"]["RedrivePolicy"]) | {"maxReceiveCount": 1}
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": json.dumps(policy), "VisibilityTimeout": "1"})
    try:
        sqs.send_message(QueueUrl=queue, MessageBody="not an invocation record")
        wait_until(lambda: received(sqs, dead_letters) == ["not an invocation record"], FAILED_SECONDS)
    finally:
        sqs.set_queue_attributes(QueueUrl=queue, Attributes=deployed["Attributes"])
