"""What is parked when the error log cannot be written, and how healing takes it from there."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.outcomes import body_of
from tests.sources import FUNCTIONS
from tests.workflow.account import PARK, SAVE_ERROR, SEND_MAIL, Workflow, client, lambda_error
from tests.workflow.engine import PARKED_QUEUE

DELIVERY = {
    "body": body_of("paid"),
    "requestId": "8f7e6d5c",
    "receivedAt": 1795341600000,
    "sourceIp": "203.0.113.7",
    "headers": {"content-type": "application/json"},
}
# Step Functions and SQS both take so much.
MAX_BYTES = 256 * 1024
# What the API's template lets through of a body, and of the six headers that it keeps.
MAX_BODY_CHARACTERS = 8_192
MAX_HEADER_CHARACTERS = 6 * 1_024


def throttle_every_function(workflow: Workflow) -> None:
    """Use up the account's concurrency."""
    for function in FUNCTIONS:
        workflow.functions.fail(function, lambda_error("TooManyRequestsException", 429))


def break_dynamodb_ses_and_sentry(workflow: Workflow) -> None:
    workflow.aws.refuse(("DynamoDB_", "UpdateItem"), "InternalServerError", status=500)
    workflow.aws.refuse(("DynamoDB_", "PutItem"), "InternalServerError", status=500)
    workflow.aws.refuse(SEND_MAIL, "ServiceUnavailable", status=503)
    workflow.sentry.status = 503


Break = Callable[[Workflow], None]
OUTAGES: dict[str, Break] = {
    "every function throttled": throttle_every_function,
    "DynamoDB, SES and Sentry down": break_dynamodb_ses_and_sentry,
}


def parked() -> list[dict[str, Any]]:
    """Return what is parked, and leave it there."""
    answer = client("sqs").receive_message(QueueUrl=PARKED_QUEUE, MaxNumberOfMessages=10, VisibilityTimeout=0)
    return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


def park(message: Any) -> None:
    text = message if isinstance(message, str) else json.dumps(message)
    client("sqs").send_message(QueueUrl=PARKED_QUEUE, MessageBody=text)


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_delivery_that_nothing_could_report_is_dispatched_later(workflow: Workflow, outage: str) -> None:
    OUTAGES[outage](workflow)
    execution = workflow.run(DELIVERY)

    assert execution.status == "FAILED"
    assert execution.states[-2:] == ["IsLogged?", "FailParked"]
    (message,) = parked()
    assert message["event"] == DELIVERY
    workflow.recover()
    assert (workflow.records, workflow.errors, workflow.mails, workflow.sentry.events) == ([], [], [], [])

    workflow.heal()
    assert len(workflow.dispatched) == 1
    (row,) = workflow.errors
    assert (row["requestId"], row["status"], row["executionArn"]) == ("8f7e6d5c", "resolved", execution.arn)
    assert parked() == []

    # The queue delivers at least once.
    park(message)
    workflow.heal()
    assert workflow.errors == [row]
    assert len(workflow.dispatched) == 1


@pytest.mark.parametrize("outage", OUTAGES)
def test_healing_fails_while_it_cannot_take_what_is_parked(workflow: Workflow, outage: str) -> None:
    OUTAGES[outage](workflow)
    workflow.run(DELIVERY)
    healing = workflow.heal()

    assert healing.status == "FAILED"
    workflow.recover()
    assert workflow.errors == []


def test_a_delivery_that_cannot_be_parked_fails_its_execution(workflow: Workflow) -> None:
    throttle_every_function(workflow)
    workflow.aws.refuse(PARK, "InternalError", status=500)
    execution = workflow.run(DELIVERY)

    assert execution.status == "FAILED"
    assert execution.states[-2:] == ["IsLogged?", "FailUnparked"]
    workflow.recover()
    assert parked() == workflow.errors == workflow.records == []


def test_parking_is_tried_twice(workflow: Workflow) -> None:
    throttle_every_function(workflow)
    workflow.aws.refuse(PARK, "RequestThrottled", times=1)
    execution = workflow.run(DELIVERY)

    assert execution.states[-1] == "FailParked"
    assert len(parked()) == 1


def test_a_report_that_works_is_made_for_a_parked_delivery(workflow: Workflow) -> None:
    workflow.aws.refuse(SAVE_ERROR, "ProvisionedThroughputExceededException")
    execution = workflow.run({**DELIVERY, "body": body_of("missing-fields")})

    assert execution.states[-1] == "FailParked"
    assert (len(workflow.mails), len(workflow.sentry.events)) == (1, 1)


@pytest.mark.parametrize("body", ["\x01" * (MAX_BODY_CHARACTERS // 2), '"' * MAX_BODY_CHARACTERS])
def test_the_largest_delivery_can_be_parked_and_taken(workflow: Workflow, body: str) -> None:
    throttle_every_function(workflow)
    delivery = {**DELIVERY, "body": body, "headers": {"webhook-signature": '"' * MAX_HEADER_CHARACTERS}}
    workflow.run(delivery)

    (message,) = parked()
    assert message["event"] == delivery
    assert len(json.dumps(message, ensure_ascii=False).encode()) < MAX_BYTES
    workflow.recover()
    workflow.heal()
    (row,) = workflow.errors
    assert json.loads(row["event"]) == delivery


@pytest.mark.parametrize("message", ["not JSON", "[]", {"failure": {}}])
def test_a_message_that_is_not_understood_stops_nothing_else(workflow: Workflow, message: Any) -> None:
    park(message)
    throttle_every_function(workflow)
    workflow.run(DELIVERY)
    workflow.recover()
    healing = workflow.heal()

    assert healing.status == "SUCCEEDED"
    assert len(workflow.dispatched) == 1
    # It is invisible for some minutes, and then received again until the queue gives it up.
    attributes = client("sqs").get_queue_attributes(QueueUrl=PARKED_QUEUE, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "1"
    assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith(
        "payment3-callback-parked-dead-letters-test"
    )
