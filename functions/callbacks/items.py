"""Reads single items of tables that belong to others, whose key and attribute names are settings."""

from typing import Any

import boto3
from boto3.dynamodb.types import TypeDeserializer
from botocore.config import Config

# Two reads fit into CrossCheckPayment's time, but not a pause and a second attempt: the state's Retry is for that.
dynamodb = boto3.client(
    "dynamodb",
    config=Config(connect_timeout=0.1, read_timeout=0.35, retries={"total_max_attempts": 1}),
)
deserialize = TypeDeserializer().deserialize


def read(table: str, key: str, value: str, attributes: list[str]) -> dict[str, Any] | None:
    """Return these attributes of the item whose hash key `key` is `value`, read consistently, or None without one.

    Raises botocore's errors.
    """
    # The key is requested too: otherwise an item without the attributes would look like no item.
    names = {f"#{number}": name for number, name in enumerate([key, *attributes])}
    answer = dynamodb.get_item(
        TableName=table,
        Key={key: {"S": value}},
        ConsistentRead=True,
        ProjectionExpression=", ".join(names),
        ExpressionAttributeNames=names,
    )
    item = answer.get("Item")
    return None if item is None else {name: deserialize(value) for name, value in item.items()}
