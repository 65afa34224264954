"""The DynamoDB tables as PynamoDB models; their keys are those of template.yaml."""

from decimal import Decimal
from functools import cache
from types import new_class
from typing import cast

from pynamodb.attributes import Attribute, BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.constants import NUMBER
from pynamodb.exceptions import PynamoDBException
from pynamodb.models import Model

CONNECT_TIMEOUT_SECONDS = 0.5
READ_TIMEOUT_SECONDS = 1


class DecimalAttribute(Attribute[Decimal]):
    """A number kept exactly; PynamoDB's own NumberAttribute reads a float."""

    attr_type = NUMBER

    def serialize(self, value: Decimal) -> str:
        return str(value)

    def deserialize(self, value: str) -> Decimal:
        return Decimal(value)


class CallbackRecord(Model):
    """One delivery of a callback, written once and never changed.

    The range key starts with the time of receipt, so one Query on `orderId` reads all callbacks of an order in order of
    arrival.
    """

    orderId = UnicodeAttribute(hash_key=True)
    deliveryId = UnicodeAttribute(range_key=True)
    paymentId = UnicodeAttribute()
    userId = UnicodeAttribute()
    success = BooleanAttribute()
    amount = DecimalAttribute(null=True)
    message = UnicodeAttribute(null=True)
    extra = UnicodeAttribute()
    body = UnicodeAttribute()
    channel = UnicodeAttribute()
    requestId = UnicodeAttribute()
    receivedAt = UnicodeAttribute()
    sourceIp = UnicodeAttribute(null=True)
    executionArn = UnicodeAttribute()


class CallbackError(Model):
    """One failed execution, with all that is needed to understand it and to run it again."""

    executionArn = UnicodeAttribute(hash_key=True)
    functionName = UnicodeAttribute()
    occurredAt = UnicodeAttribute()
    channel = UnicodeAttribute()
    step = UnicodeAttribute()
    error = UnicodeAttribute()
    cause = UnicodeAttribute()
    orderId = UnicodeAttribute(null=True)
    chargeId = UnicodeAttribute(null=True)
    requestId = UnicodeAttribute()
    event = UnicodeAttribute()


class Alert(Model):
    """One kind of failure, and when it was last mailed.

    Until `windowEndsAt` (seconds since 1970) failures of the kind are counted in `suppressed`; the mail that opens a
    window takes the count over as `summedUp`.
    """

    kind = UnicodeAttribute(hash_key=True)
    windowEndsAt = NumberAttribute()
    openedBy = UnicodeAttribute()
    suppressed = NumberAttribute()
    summedUp = NumberAttribute()
    expiration = NumberAttribute()


def condition_failed(error: PynamoDBException) -> bool:
    """Tell whether a write was refused by its own condition, rather than by DynamoDB."""
    return error.cause_response_code == "ConditionalCheckFailedException"


@cache
def bound[M: Model](model: type[M], table: str) -> type[M]:
    """Return `model` for the table of that name. Step Functions retries the step, so the client itself does not."""

    class Meta:
        table_name = table
        connect_timeout_seconds = CONNECT_TIMEOUT_SECONDS
        read_timeout_seconds = READ_TIMEOUT_SECONDS
        max_retry_attempts = 0

    return cast(type[M], new_class(model.__name__, (model,), exec_body=lambda body: body.update(Meta=Meta)))
