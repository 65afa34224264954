"""What there is to look at, read from tables as DynamoDB has them."""

from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from werkzeug.test import Client

from local.desk import Desk

Put = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def shown(tables: dict[str, str]) -> Put:
    """Put a record with these attributes, as DynamoDB writes them, and return what is shown at `/_local/records`."""
    stack: Any = SimpleNamespace(client=boto3.client, outputs={"RecordTableName": tables["WalletCallbackRecordTable"]})

    def put(**attributes: Any) -> list[dict[str, Any]]:
        keys = {name: {"S": "1"} for name in ("orderId", "deliveryId", "receivedAt")}
        boto3.client("dynamodb").put_item(TableName=stack.outputs["RecordTableName"], Item={**keys, **attributes})
        response = Client(Desk(stack)).get("/_local/records")
        assert response.status_code == 200
        return response.json

    return put


@pytest.mark.parametrize(
    "number",
    [
        pytest.param("1" + "0" * 100, id="1e100 written out"),
        pytest.param("1E+100", id="1e100"),
        pytest.param("9" * 38 + "0" * 88, id="the greatest"),
        pytest.param("-" + "9" * 38 + "0" * 88, id="the least"),
        pytest.param("0." + "0" * 129 + "1", id="the smallest"),
        pytest.param("1" * 38, id="38 digits"),
        pytest.param("1.50", id="1.50"),
    ],
)
def test_any_number_that_dynamodb_holds_is_shown_exactly(shown: Put, number: str) -> None:
    (record,) = shown(amount={"N": number}, extra={"M": {"fees": {"L": [{"N": number}]}}})
    assert Decimal(record["amount"]) == Decimal(record["extra"]["fees"][0]) == Decimal(number)
