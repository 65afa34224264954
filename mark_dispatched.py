"""Marks payments that another system has dispatched, so that this one never dispatches them again.

Reads order and payment ids, either from a CSV file with the columns orderId and paymentId, or from the stack's own
records that show a dispatch. A marked payment's later deliveries are duplicates.
"""

import argparse
import csv
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

import stacks
from stacks import StackError

MAX_ID_CHARACTERS = 128
COLUMNS = ("orderId", "paymentId")
MARKED, KNOWN, CLAIMED = "marked", "already dispatched", "being dispatched, left alone"


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if every payment now counts as dispatched, else 1."""
    options = _parser().parse_args(arguments)
    try:
        client = stacks.client_maker(options)
        cloudformation, dynamodb = client("cloudformation"), client("dynamodb")
        ledger = stacks.output_of(cloudformation, options, "LedgerTableName")
        if options.file:
            return mark(dynamodb, ledger, options.channel, _read_file(options.file))
        records = stacks.output_of(cloudformation, options, "RecordTableName")
        return mark(dynamodb, ledger, options.channel, _read_records(dynamodb, records))
    except StackError as error:
        print(error, file=sys.stderr)
    except (BotoCoreError, ClientError) as error:
        print(stacks.explain(error, options), file=sys.stderr)
    return 1


def mark(dynamodb: Any, ledger: str, channel: str, payments: Iterable[tuple[str, str]]) -> int:
    """Write the payments to the ledger; print a summary. Return the exit code."""
    outcomes: Counter[str] = Counter()
    for order_id, payment_id in payments:
        outcome = _mark(dynamodb, ledger, f"{channel}#{order_id}", payment_id)
        outcomes[outcome] += 1
        if outcome == CLAIMED:
            print(f"order {order_id} payment {payment_id}: {outcome}", file=sys.stderr)
    print(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in (MARKED, KNOWN, CLAIMED)))
    return 1 if outcomes[CLAIMED] else 0


def _mark(dynamodb: Any, ledger: str, order_key: str, payment_id: str) -> str:
    """Write one payment as dispatched, unless the ledger has it."""
    key = {"orderKey": {"S": order_key}, "paymentId": {"S": payment_id}}
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        dynamodb.update_item(
            TableName=ledger,
            Key=key,
            UpdateExpression="SET dispatchedBy = :marked, dispatchedAt = :now, dispatches = :one",
            ConditionExpression="attribute_not_exists(claimedBy) AND attribute_not_exists(dispatchedBy)",
            ExpressionAttributeValues={":marked": {"S": "mark_dispatched"}, ":now": {"S": now}, ":one": {"N": "1"}},
        )
    except dynamodb.exceptions.ConditionalCheckFailedException:
        item = dynamodb.get_item(TableName=ledger, Key=key, ConsistentRead=True).get("Item", {})
        return KNOWN if "dispatchedBy" in item else CLAIMED
    return MARKED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mark_dispatched", description=__doc__, allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--file", type=Path, metavar="CSV", help="a file with the columns orderId and paymentId")
    what.add_argument("--records", action="store_true", help="the stack's records that show a dispatch")
    parser.add_argument("--channel", default="BankApp", help="the payments' channel (%(default)s)")
    stacks.add_options(parser)
    return parser


def _read_file(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a file. Raises StackError, before anything is written, if a row is incomplete."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := set(COLUMNS) - set(reader.fieldnames or ()):
                raise StackError(f"{path} has no column {' and '.join(sorted(missing))}")
            rows = [tuple(str(row[column] or "") for column in COLUMNS) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StackError(f"{path} cannot be read: {error}") from error
    for number, row in enumerate(rows, start=2):
        if not all(_is_deliverable(value) for value in row):
            raise StackError(f"{path}, line {number}: orderId or paymentId is not one that a callback can have")
    return [(order_id, payment_id) for order_id, payment_id in rows]


def _is_deliverable(value: str) -> bool:
    """Return whether a callback with this id is accepted: otherwise no delivery would ever find the mark."""
    is_text = bool(value) and value == value.strip() and value.isprintable() and "\ufffd" not in value
    return is_text and len(value) <= MAX_ID_CHARACTERS and unicodedata.is_normalized("NFC", value)


def _read_records(dynamodb: Any, table: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of the records with a dispatch, each once per delivery."""
    pages = dynamodb.get_paginator("scan").paginate(
        TableName=table,
        FilterExpression="attribute_exists(dispatchedBy)",
        ProjectionExpression="orderId, paymentId",
    )
    for page in pages:
        for item in page["Items"]:
            yield item["orderId"]["S"], item["paymentId"]["S"]


if __name__ == "__main__":
    sys.exit(main())
