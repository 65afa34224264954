import json
import re
from typing import Any

import boto3
import pytest

from local.stack import ROOT
from tests.sources import timeout_of
from tests.unit.kit import Json, Load, Log, Table, Task, context, items, only


@pytest.fixture
def queue(tables: dict[str, str]) -> str:  # noqa: ARG001 moto runs
    url: str = boto3.client("sqs").create_queue(QueueName="parked", Attributes={"VisibilityTimeout": "300"})["QueueUrl"]
    return url


@pytest.fixture
def task(load: Load, tables: dict[str, str], queue: str) -> Task:
    return load("take_parked", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"], PARKED_QUEUE_URL=queue)


def park(queue: str, *messages: Any) -> None:
    for message in messages:
        text = message if isinstance(message, str) else json.dumps(message)
        boto3.client("sqs").send_message(QueueUrl=queue, MessageBody=text)


def left(queue: str) -> int:
    """Return the number of messages in the queue, those that are being received included."""
    attributes = boto3.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    return int(attributes["ApproximateNumberOfMessages"]) + int(attributes["ApproximateNumberOfMessagesNotVisible"])


def failures(failure: Json, count: int) -> list[Json]:
    return [{**failure, "event": {"requestId": f"request-{number}"}} for number in range(count)]


@pytest.mark.parametrize("error", ["ServiceUnavailable", "InvalidCallback"])
def test_a_parked_failure_is_on_its_item_as_if_it_were_written_at_once(
    task: Task, load: Load, tables: dict[str, str], error_log: Table, queue: str, failure: Json, error: str
) -> None:
    failure["report"]["failure"] = {"ValidateCallback": {"Error": error, "Cause": ""}}
    park(queue, failure)
    assert task.handler({}, context()) == {"isEmpty": True}
    taken = only(error_log)
    assert left(queue) == 0

    error_log.delete_item(Key={"requestId": taken["requestId"]})
    load("write_error_log", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"]).handler(failure, context())
    assert only(error_log) == taken


def test_all_batches_are_taken(task: Task, error_log: Table, queue: str, failure: Json) -> None:
    park(queue, *failures(failure, 25))
    assert task.handler({}, context()) == {"isEmpty": True}
    assert (len(items(error_log)), left(queue)) == (25, 0)


def test_no_batch_is_begun_that_might_not_end_in_time(task: Task, queue: str, failure: Json) -> None:
    park(queue, failure)
    assert task.handler({}, context(milliseconds=5_000)) == {"isEmpty": False}
    assert left(queue) == 1


def test_the_page_on_capacity_has_the_time_of_a_batch(task: Task, queue: str, failure: Json) -> None:
    page = (ROOT / "docs/capacity.md").read_text()
    reserve, timeout = re.findall(r"last\n([\d.]+) of its (\d+) seconds", page)[0]
    assert float(timeout) == timeout_of("TakeParked")
    park(queue, failure)
    task.handler({}, context(milliseconds=int(float(reserve) * 1000) - 50))
    assert left(queue) == 1
    task.handler({}, context(milliseconds=int(float(reserve) * 1000) + 50))
    assert left(queue) == 0


@pytest.mark.parametrize("status", ["open", "redriven", "resolved", "given up"])
def test_a_failure_that_the_error_log_has_stays_as_it_is(
    task: Task, error_log: Table, queue: str, failure: Json, status: str
) -> None:
    row = {"requestId": "8f7e6d5c", "status": status, "error": "another"}
    error_log.put_item(Item=row)
    park(queue, failure)
    task.handler({}, context())
    assert only(error_log) == row
    assert left(queue) == 0


def test_a_message_that_is_not_understood_is_left_to_the_queue(
    task: Task, error_log: Table, queue: str, failure: Json, log: Log
) -> None:
    park(queue, "not JSON", "[]", {"event": {}, "report": {"failure": {}}}, failure)
    assert task.handler({}, context()) == {"isEmpty": True}
    assert only(error_log)["requestId"] == "8f7e6d5c"
    assert left(queue) == 3
    lines = [line for line in log() if line["message"] == "Parked message not understood"]
    assert {line["error"] for line in lines} == {"JSONDecodeError", "TypeError", "ValueError"}


def test_a_batch_of_which_nothing_is_understood_deletes_nothing(task: Task, queue: str) -> None:
    park(queue, "not JSON")
    assert task.handler({}, context()) == {"isEmpty": True}
    assert left(queue) == 1
