"""Exports or erases what is stored of one order or one user, and says what it leaves.

An export prints one JSON object per item. Erasing asks for confirmation, prints a line per item, and leaves what is
still needed: the ledger, which dispatches each payment once, and deliveries whose payment may be lost without them.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import BotoCoreError, ClientError

import stacks
from stacks import StackError

# Reads of a search by user: it must not use up what callbacks need.
READ_UNITS_PER_SECOND = 500
RECORD, LEDGER, FAILURE = "record", "ledger", "failure"
# Process-paid may fail for hours after a dispatch, and ReopenPayment then reads the record.
MIN_AGE = timedelta(days=1)
# What DynamoDB checks as it deletes: a redrive may have changed the item since it was read.
ERASABLE = {
    RECORD: "success = :false OR (attribute_exists(dispatchedBy) AND receivedAt < :old)",
    # A callback that was refused at once expires anyway.
    FAILURE: "#status = :resolved OR (#status = :open AND attribute_exists(expiration))",
}
WHY_LEFT = {
    RECORD: "its payment is not dispatched yet, or it is less than a day old",
    FAILURE: "it is not resolved; redrive or dismiss it first",
    LEDGER: "it dispatches the payment once; it has no user id and no amount, only digests of them",
}
NOT_SEARCHED = """\
Not searched:
- parked deliveries: a queue cannot be searched; a healing run takes them into the error log, so look again after it
- logs and execution histories: kept for LogRetentionDays, those of healing for 90 days
- alert windows: the ids of the last failure of a kind, for 90 days after the window
- backups of the tables: kept for 35 days
- e-mails and Sentry events: in the mailboxes of EmailTo and in the Sentry project"""

deserialize = TypeDeserializer().deserialize


class Item(NamedTuple):
    """An item of one of the three tables, with the name of its table and its key in DynamoDB's types."""

    where: str
    table: str
    key: dict[str, Any]
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """The item as an operator looks for it."""
        return f"{self.where} {' '.join(str(deserialize(value)) for value in self.key.values())}"


class Tables(NamedTuple):
    """The names of the tables."""

    records: str
    ledger: str
    error_log: str


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if everything found was exported or erased, the ledger aside, else 1."""
    options = _parser().parse_args(arguments)
    try:
        client = stacks.client_maker(options)
        cloudformation = client("cloudformation")
        names = ("RecordTableName", "LedgerTableName", "ErrorLogTableName")
        tables = Tables(*(stacks.output_of(cloudformation, options, name) for name in names))
        store = Store(client("dynamodb"), tables, options.channel)
        found = store.of_order(options.order) if options.order else store.of_user(options.user)
        return export(found) if options.action == "export" else erase(store, found, is_confirmed=options.yes)
    except StackError as error:
        print(error, file=sys.stderr)
    except (BotoCoreError, ClientError) as error:
        print(stacks.explain(error, options), file=sys.stderr)
    return 1


def export(found: Iterator[Item]) -> int:
    """Print each item as JSON, and a summary beside it. Return the exit code."""
    count: Counter[str] = Counter()
    for item in found:
        count[item.where] += 1
        print(json.dumps({"where": item.where, **item.content}, ensure_ascii=False, default=_plain), flush=True)
    print(f"{_summary(count)}\n{NOT_SEARCHED}", file=sys.stderr)
    return 0


def erase(store: "Store", found: Iterator[Item], *, is_confirmed: bool) -> int:
    """Erase each item that is no longer needed; print what becomes of each. Return the exit code."""
    if not (is_confirmed or stacks.is_yes("Erase all records and failures that are found? They cannot be restored.")):
        print("Nothing was changed.")
        return 1
    erased: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for item in found:
        is_erased = item.where != LEDGER and store.erase(item)
        (erased if is_erased else left)[item.where] += 1
        print(f"erased {item.name}" if is_erased else f"left   {item.name}: {WHY_LEFT[item.where]}", flush=True)
    print(f"Erased: {_summary(erased)}\nLeft: {_summary(left)}\n{NOT_SEARCHED}")
    return 1 if left[RECORD] + left[FAILURE] else 0


class Store:
    """The tables of a stack, and what they hold of an order or a user."""

    def __init__(self, dynamodb: Any, tables: Tables, channel: str) -> None:
        self._dynamodb = dynamodb
        self._tables = tables
        self._channel = channel

    def of_order(self, order_id: str) -> Iterator[Item]:
        """Yield the items of an order: failures first, because a record alone cannot show that one is left."""
        order = {":order": {"S": order_id}}
        by_order = {"IndexName": "byOrder", "KeyConditionExpression": "orderId = :order"}
        for key in self._pages("query", self._tables.error_log, ExpressionAttributeValues=order, **by_order):
            yield from self._failure(key["requestId"])
        by_key = {"KeyConditionExpression": "orderId = :order", "ExpressionAttributeValues": order}
        for record in self._pages("query", self._tables.records, **by_key):
            yield self._item(RECORD, self._tables.records, record, "orderId", "deliveryId")
        yield from self._payments(order_id)

    def of_user(self, user_id: str) -> Iterator[Item]:
        """Yield the items of a user, and the payments of their orders. No table has an index for it: reads all items.

        A body that cannot be parsed is the user's if it holds their id in quotes.
        """
        orders: set[str] = set()
        keys = {"ProjectionExpression": "requestId, orderId, event"}
        for row in self._pages("scan", self._tables.error_log, **keys):
            if _names(row["event"]["S"], user_id):
                orders |= {row["orderId"]["S"]} if "orderId" in row else set()
                yield from self._failure(row["requestId"])
        of_user = {"FilterExpression": "userId = :user", "ExpressionAttributeValues": {":user": {"S": user_id}}}
        for record in self._pages("scan", self._tables.records, **of_user):
            orders.add(record["orderId"]["S"])
            yield self._item(RECORD, self._tables.records, record, "orderId", "deliveryId")
        for order_id in sorted(orders):
            yield from self._payments(order_id)

    def erase(self, item: Item) -> bool:
        """Delete a record or a failure; return False if it is still needed."""
        old = (datetime.now(UTC) - MIN_AGE).isoformat()
        request: dict[str, Any] = {"ExpressionAttributeValues": {":false": {"BOOL": False}, ":old": {"S": old}}}
        if item.where == FAILURE:
            statuses = {":resolved": {"S": "resolved"}, ":open": {"S": "open"}}
            request = {"ExpressionAttributeValues": statuses, "ExpressionAttributeNames": {"#status": "status"}}
        try:
            self._dynamodb.delete_item(
                TableName=item.table, Key=item.key, ConditionExpression=ERASABLE[item.where], **request
            )
        except self._dynamodb.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _payments(self, order_id: str) -> Iterator[Item]:
        order = {":order": {"S": f"{self._channel}#{order_id}"}}
        by_key = {"KeyConditionExpression": "orderKey = :order", "ExpressionAttributeValues": order}
        for payment in self._pages("query", self._tables.ledger, **by_key):
            yield self._item(LEDGER, self._tables.ledger, payment, "orderKey", "paymentId")

    def _failure(self, request_id: dict[str, str]) -> Iterator[Item]:
        """Yield a failure as it is now; it may have expired since it was found."""
        answer = self._dynamodb.get_item(
            TableName=self._tables.error_log, Key={"requestId": request_id}, ConsistentRead=True
        )
        if "Item" in answer:
            yield self._item(FAILURE, self._tables.error_log, answer["Item"], "requestId")

    def _item(self, where: str, table: str, item: dict[str, Any], *keys: str) -> Item:
        content = {name: deserialize(value) for name, value in item.items()}
        return Item(where, table, {key: item[key] for key in keys}, content)

    def _pages(self, operation: str, table: str, **request: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of all pages, one page in memory at a time and no faster than READ_UNITS_PER_SECOND."""
        paginator = self._dynamodb.get_paginator(operation)
        for page in paginator.paginate(TableName=table, ReturnConsumedCapacity="TOTAL", **request):
            yield from page["Items"]
            time.sleep(page["ConsumedCapacity"]["CapacityUnits"] / READ_UNITS_PER_SECOND)


def _names(event: str, user_id: str) -> bool:
    """Return whether a failed delivery, as the error log keeps it, is of this user."""
    delivery = json.loads(event)
    body: Any = delivery.get("body") if isinstance(delivery, dict) else delivery
    try:
        callback = json.loads(body)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(user_id, ensure_ascii=False) in str(body)
    return isinstance(callback, dict) and callback.get("userId") == user_id


def _plain(value: Any) -> Any:
    """Return a Decimal or a set as JSON can hold it, without losing a digit."""
    return sorted(value) if isinstance(value, set) else str(value)


def _summary(count: Counter[str]) -> str:
    return f"{count[RECORD]} in the record table, {count[FAILURE]} in the error log, {count[LEDGER]} in the ledger"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m personal_data", description=__doc__, allow_abbrev=False)
    parser.add_argument("action", choices=["export", "erase"], help="print all that is found, or delete it")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--order", metavar="ID", help="one order")
    whose.add_argument("--user", metavar="ID", help="one user; reads the whole record table and error log")
    parser.add_argument("--channel", default="BankApp", help="the payments' channel (%(default)s)")
    parser.add_argument("--yes", action="store_true", help="erase without being asked")
    stacks.add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
