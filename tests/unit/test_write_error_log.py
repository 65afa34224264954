import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from boto3.dynamodb.conditions import Key
from pynamodb.exceptions import PutError

from callbacks.errors import ConfigurationError, ServiceUnavailable

EVENTS = Path(__file__).parents[2] / "events"


@pytest.fixture
def task(load: Callable[..., ModuleType], tables: dict[str, str]) -> ModuleType:
    return load("write_error_log", ERROR_LOG_TABLE=tables["CallbackErrorLogTable"])


@pytest.fixture
def items(tables: dict[str, str]) -> Callable[[], list[dict[str, Any]]]:
    return lambda: boto3.client("dynamodb").scan(TableName=tables["CallbackErrorLogTable"])["Items"]


def test_all_that_is_known_of_a_failure_is_on_its_item(
    task: ModuleType, items: Callable[[], list[dict[str, Any]]], failure: dict[str, Any]
) -> None:
    assert task.handler(failure, None) == {"reported": True}
    (item,) = items()
    assert json.loads(item.pop("event")["S"]) == failure["event"]
    assert item == {
        "executionArn": {"S": failure["executionArn"]},
        "functionName": {"S": "bankappcallback"},
        "occurredAt": {"S": "2026-11-22T10:00:01.000Z"},
        "channel": {"S": "BankApp"},
        "step": {"S": "SaveCallbackRecord"},
        "error": {"S": "ServiceUnavailable"},
        "cause": {"S": failure["failure"]["SaveCallbackRecord"]["Cause"]},
        "orderId": {"S": "482500007436"},
        "chargeId": {"S": "pay_bankapp_123"},
        "requestId": {"S": "8f7e6d5c"},
    }


def test_a_second_attempt_leaves_one_item(
    task: ModuleType, items: Callable[[], list[dict[str, Any]]], failure: dict[str, Any]
) -> None:
    task.handler(failure, None)
    first = items()
    assert task.handler(failure, None) == {"reported": True}
    assert items() == first


def test_the_failures_of_a_function_are_read_by_one_query_in_order_of_time(
    task: ModuleType, tables: dict[str, str], failure: dict[str, Any]
) -> None:
    times = ["2026-11-22T10:00:01.010Z", "2026-11-22T10:00:01.009Z", "2026-11-23T00:00:00.000Z"]
    for number, time in enumerate(times):
        task.handler({**failure, "occurredAt": time, "executionArn": f"arn-{number}"}, None)
    task.handler({**failure, "functionName": "another", "executionArn": "arn-3"}, None)
    table = boto3.resource("dynamodb").Table(tables["CallbackErrorLogTable"])
    found = table.query(IndexName="byFunction", KeyConditionExpression=Key("functionName").eq("bankappcallback"))
    assert [item["occurredAt"] for item in found["Items"]] == sorted(times)


def test_the_body_of_every_event_can_be_played_again_from_its_item(
    task: ModuleType, items: Callable[[], list[dict[str, Any]]], failure: dict[str, Any]
) -> None:
    bodies = {file.stem: json.loads(file.read_text())["body"] for file in EVENTS.glob("*.json")}
    assert bodies
    for name, body in bodies.items():
        task.handler({**failure, "executionArn": name, "event": {"body": body}}, None)
    assert {item["executionArn"]["S"]: json.loads(item["event"]["S"])["body"] for item in items()} == bodies


@pytest.mark.parametrize("body", ["half a pair: \ud83c", "ชำระเงินสำเร็จ 🎉", "\x00\x7f\u2028'\"\\/", "ก" * 32_769])
def test_text_of_all_kinds_is_kept(
    task: ModuleType, items: Callable[[], list[dict[str, Any]]], failure: dict[str, Any], body: str
) -> None:
    failure["event"]["body"] = body
    task.handler(failure, None)
    (item,) = items()
    assert json.loads(item["event"]["S"])["body"] == body


def test_ids_are_found_in_a_malformed_body(
    task: ModuleType, items: Callable[[], list[dict[str, Any]]], failure: dict[str, Any]
) -> None:
    failure["event"]["body"] = json.loads((EVENTS / "malformed.json").read_text())["body"]
    task.handler(failure, None)
    (item,) = items()
    assert (item["orderId"], item["chargeId"]) == ({"S": "482500007442"}, {"S": "pay_bankapp_129"})


@pytest.mark.parametrize("delivery", [{"body": ""}, {"body": "{}"}, {"body": None}, {}])
def test_ids_that_are_not_to_be_found_are_not_on_the_item(
    task: ModuleType, items: Callable[[], list[dict[str, Any]]], failure: dict[str, Any], delivery: dict[str, Any]
) -> None:
    task.handler({**failure, "event": delivery}, None)
    (item,) = items()
    assert not {"orderId", "chargeId"} & item.keys()
    assert item["requestId"] == {"S": failure["executionName"]}


def test_an_error_without_a_cause_is_kept(
    task: ModuleType, items: Callable[[], list[dict[str, Any]]], failure: dict[str, Any]
) -> None:
    failure["failure"] = {"ValidateCallback": {"Error": "States.Timeout"}}
    task.handler(failure, None)
    (item,) = items()
    assert (item["step"], item["error"], item["cause"]) == (
        {"S": "ValidateCallback"},
        {"S": "States.Timeout"},
        {"S": ""},
    )


@pytest.mark.parametrize(
    ("code", "status"), [("ProvisionedThroughputExceededException", 400), ("InternalServerError", 500)]
)
def test_an_error_of_dynamodb_that_passes_is_service_unavailable_and_left_to_the_state_to_retry(
    load: Callable[..., ModuleType], service: Any, failure: dict[str, Any], code: str, status: int
) -> None:
    task = load("write_error_log", AWS_ENDPOINT_URL=service.url)
    service.refuses(code, status)
    with pytest.raises(ServiceUnavailable):
        task.handler(failure, None)
    assert len(service.requests) == 1


def test_an_error_of_dynamodb_that_stays_keeps_its_own_name(
    load: Callable[..., ModuleType], service: Any, failure: dict[str, Any]
) -> None:
    task = load("write_error_log", AWS_ENDPOINT_URL=service.url)
    service.refuses("AccessDeniedException", 400)
    with pytest.raises(PutError, match="AccessDeniedException"):
        task.handler(failure, None)


def test_a_dynamodb_that_cannot_be_reached_is_given_up_within_the_steps_time(
    load: Callable[..., ModuleType], deaf: str, failure: dict[str, Any], within: Any
) -> None:
    task = load("write_error_log", AWS_ENDPOINT_URL=deaf)
    with within(1.8), pytest.raises(ServiceUnavailable):
        task.handler(failure, None)


def test_a_function_deployed_without_its_table_fails_at_its_start(load: Callable[..., ModuleType]) -> None:
    with pytest.raises(ConfigurationError, match="ERROR_LOG_TABLE"):
        load("write_error_log", ERROR_LOG_TABLE="")
