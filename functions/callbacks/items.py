"""Reads single items of tables that belong to others, whose key and attribute names are settings."""

from decimal import Decimal
from typing import Any

from callbacks import clients

# Two reads fit into CrossCheckPayment's time, but not a pause and a second attempt: the state's Retry is for that.
dynamodb = clients.connect("dynamodb", read_timeout=0.35)


def read(table: str, key: str, value: str, attributes: list[str]) -> dict[str, Any] | None:
    """Return these attributes of the item whose hash key `key` is `value`, read consistently, or None without one.

    A number is a Decimal, text is a str; anything else is as DynamoDB sends it. Raises botocore's errors.
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
    return None if item is None else {name: _value(attribute) for name, attribute in item.items()}


def _value(attribute: dict[str, Any]) -> Any:
    ((kind, value),) = attribute.items()
    return Decimal(value) if kind == "N" else value
