"""The design that this project replaces: one Lambda that does everything in one try/except.

Written after the description of the old function: it parses the callback, saves the record, invokes process-paid, and
on any exception logs an item, tells Sentry, sends an e-mail and answers 500. It has no ledger, so a duplicate is
dispatched again.
"""

import json
import os
import traceback
from datetime import UTC, datetime
from typing import Any

import boto3
import sentry_sdk
from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model

REGION = "ap-southeast-1"

# Without integrations, which would make the import slower.
sentry_sdk.init(dsn=os.environ.get("SENTRY_DSN"), default_integrations=False, auto_enabling_integrations=False)
lambda_client = boto3.client("lambda", region_name=REGION)
ses = boto3.client("ses", region_name=REGION)


class WalletCallbackRecordTable(Model):
    class Meta:
        table_name = os.environ["RECORD_TABLE"]
        region = REGION

    orderId = UnicodeAttribute(hash_key=True)
    deliveryId = UnicodeAttribute(range_key=True)
    paymentId = UnicodeAttribute()
    userId = UnicodeAttribute()
    success = BooleanAttribute()
    amount = NumberAttribute(null=True)
    message = UnicodeAttribute(null=True)
    body = UnicodeAttribute()
    functionName = UnicodeAttribute()
    receivedAt = UnicodeAttribute()


class CallbackErrorLogTable(Model):
    class Meta:
        table_name = os.environ["ERROR_LOG_TABLE"]
        region = REGION

    requestId = UnicodeAttribute(hash_key=True)
    functionName = UnicodeAttribute()
    occurredAt = UnicodeAttribute()
    error = UnicodeAttribute()
    stackTrace = UnicodeAttribute()
    orderId = UnicodeAttribute(null=True)
    chargeId = UnicodeAttribute(null=True)
    event = UnicodeAttribute()


class BaseCallbackProcessor:
    """One callback: its fields, its record and its dispatch."""

    def __init__(self, event: dict[str, Any], record_table_class: type[Model], function_name: str) -> None:
        self.body = event["body"]
        self.fields = json.loads(self.body)
        self.function_name = function_name
        self.record_table_class = record_table_class
        self.request_id = event["requestContext"]["extendedRequestId"]
        for name in ("orderId", "paymentId", "success", "userId"):
            if self.fields.get(name) is None:
                raise ValueError(f"Missing required field: {name}")

    @property
    def order_id(self) -> str:
        return str(self.fields["orderId"])

    @property
    def payment_id(self) -> str:
        return str(self.fields["paymentId"])

    @property
    def success(self) -> bool:
        return bool(self.fields["success"])

    @property
    def response(self) -> dict[str, Any]:
        answer = {
            "success": True,
            "message": f"{self.function_name} callback recorded",
            "orderId": self.order_id,
            "paymentId": self.payment_id,
            "processing": self.success,
        }
        return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(answer)}

    def save(self) -> None:
        received_at = datetime.now(UTC).isoformat()
        self.record_table_class(
            orderId=self.order_id,
            deliveryId=f"{received_at}#{self.request_id}",
            paymentId=self.payment_id,
            userId=self.fields["userId"],
            success=self.success,
            amount=self.fields.get("amount"),
            message=self.fields.get("message"),
            body=self.body,
            functionName=self.function_name,
            receivedAt=received_at,
        ).save()

    def call_processpaid(self) -> None:
        answer = lambda_client.invoke(
            FunctionName=os.environ["PROCESS_PAID_FUNCTION"], InvocationType="Event", Payload=self.body.encode()
        )
        # Otherwise the connection is not used again.
        answer["Payload"].read()


def log_callback_error(error: Exception, event: dict[str, Any], order_id: str | None, charge_id: str | None) -> None:
    CallbackErrorLogTable(
        requestId=event["requestContext"]["extendedRequestId"],
        functionName="bankappcallback",
        occurredAt=datetime.now(UTC).isoformat(),
        error=str(error),
        stackTrace=traceback.format_exc(),
        orderId=order_id,
        chargeId=charge_id,
        event=json.dumps(event),
    ).save()


def send_callback_error_email(
    error: Exception, event: dict[str, Any], order_id: str | None, charge_id: str | None
) -> None:
    text = f"{error}\norder {order_id}\ncharge {charge_id}\n{json.dumps(event)}"
    ses.send_email(
        Source=os.environ["EMAIL_FROM"],
        Destination={"ToAddresses": os.environ["EMAIL_TO"].split(",")},
        Message={
            "Subject": {"Data": "bankappcallback failed"},
            "Body": {"Text": {"Data": text}, "Html": {"Data": f"<pre>{text}</pre>"}},
        },
    )


def lambda_handler(event: dict[str, Any], _: object) -> dict[str, Any]:
    """Record bank app callback."""
    processor = None
    try:
        print(f"Processing bank app callback event: {json.dumps(event)}")
        processor = BaseCallbackProcessor(event, WalletCallbackRecordTable, "BankApp")
        processor.save()
        response = processor.response
        print(f"Bank app callback processed successfully: {json.dumps(response)}")
        if processor.success:
            processor.call_processpaid()
        return response  # noqa: TRY300
    except Exception as error:  # noqa: BLE001
        print(f"Error processing bank app callback: {error} {traceback.format_exc()}")
        sentry_sdk.capture_exception(error)
        # Lambda would freeze the thread that sends the event.
        sentry_sdk.flush(2)
        order_id = processor.order_id if processor else None
        charge_id = processor.payment_id if processor else None
        log_callback_error(error, event, order_id, charge_id)
        send_callback_error_email(error, event, order_id, charge_id)
        answer = {"success": False, "error": str(error), "message": "Failed to process bank app callback"}
        return {"statusCode": 500, "headers": {"Content-Type": "application/json"}, "body": json.dumps(answer)}
