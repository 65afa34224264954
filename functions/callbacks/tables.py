"""The DynamoDB tables as PynamoDB models; their keys are those of template.yaml."""

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from functools import cache
from types import new_class
from typing import cast

from pynamodb.attributes import Attribute, BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.constants import NUMBER
from pynamodb.exceptions import PutError, UpdateError
from pynamodb.indexes import AllProjection, GlobalSecondaryIndex, KeysOnlyProjection
from pynamodb.models import Model

# A second attempt, after up to a second's pause, fits into the time of a step where the first failed at once.
CONNECT_TIMEOUT_SECONDS = 0.4
READ_TIMEOUT_SECONDS = 0.5


class DecimalAttribute(Attribute[Decimal]):
    """A number kept exactly; PynamoDB's own NumberAttribute reads a float."""

    attr_type = NUMBER

    def serialize(self, value: Decimal) -> str:
        return str(value)

    def deserialize(self, value: str) -> Decimal:
        return Decimal(value)


class Undispatched(GlobalSecondaryIndex["CallbackRecord"]):
    """The paid records of a channel that have no confirmed dispatch, by time of receipt."""

    class Meta:
        index_name = "undispatched"
        projection = KeysOnlyProjection()

    channel = UnicodeAttribute(hash_key=True)
    undispatchedSince = UnicodeAttribute(range_key=True)


class CallbackRecord(Model):
    """One delivery of a callback: what was received never changes, what became of it is noted once.

    The range key starts with the time of receipt, so one Query on `orderId` reads all callbacks of an order in order of
    arrival. `undispatchedSince` is the time of receipt for as long as a paid delivery waits for its dispatch to be
    confirmed; `dispatchedBy` is then the delivery that was dispatched, this one or an earlier one of the same payment.
    `signature`, `crossCheck` and `inquiry` say what came of each check: off, passed, or what is wrong.
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
    signatureHeaders = UnicodeAttribute(null=True)
    signature = UnicodeAttribute()
    crossCheck = UnicodeAttribute(null=True)
    inquiry = UnicodeAttribute(null=True)
    undispatchedSince = UnicodeAttribute(null=True)
    dispatchedBy = UnicodeAttribute(null=True)

    undispatched = Undispatched()


class Due(GlobalSecondaryIndex["CallbackError"]):
    """The failed deliveries of a channel that will be run again, by the time when."""

    class Meta:
        index_name = "due"
        projection = AllProjection()

    channel = UnicodeAttribute(hash_key=True)
    nextAttemptAt = UnicodeAttribute(range_key=True)


class ByFunction(GlobalSecondaryIndex["CallbackError"]):
    """The failed deliveries of a function, by the time of the first failure."""

    class Meta:
        index_name = "byFunction"
        projection = AllProjection()

    functionName = UnicodeAttribute(hash_key=True)
    occurredAt = UnicodeAttribute(range_key=True)


class ByOrder(GlobalSecondaryIndex["CallbackError"]):
    """The failed deliveries of an order, by the time of the first failure."""

    class Meta:
        index_name = "byOrder"
        projection = AllProjection()

    orderId = UnicodeAttribute(hash_key=True)
    occurredAt = UnicodeAttribute(range_key=True)


class Status(StrEnum):
    """OPEN waits for its next attempt or, where none is due, for a person. REDRIVEN is being run again at this moment.

    RESOLVED was run again and succeeded. GIVEN_UP failed at the last attempt that is made by itself.
    """

    OPEN = "open"
    REDRIVEN = "redriven"
    RESOLVED = "resolved"
    GIVEN_UP = "given up"


class CallbackError(Model):
    """One delivery that failed, with all that is needed to understand it and to run it again.

    `occurredAt` is the time of its first failure; `step`, `error`, `cause` and `executionArn` are those of its last.
    `attempts` counts how often it was run again; `nextAttemptAt` is there as long as it will be by itself.
    """

    requestId = UnicodeAttribute(hash_key=True)
    functionName = UnicodeAttribute()
    occurredAt = UnicodeAttribute()
    receivedAt = UnicodeAttribute()
    channel = UnicodeAttribute()
    executionArn = UnicodeAttribute()
    step = UnicodeAttribute()
    error = UnicodeAttribute()
    cause = UnicodeAttribute()
    orderId = UnicodeAttribute(null=True)
    chargeId = UnicodeAttribute(null=True)
    event = UnicodeAttribute()
    status = UnicodeAttribute()
    attempts = NumberAttribute()
    lastResult = UnicodeAttribute(null=True)
    nextAttemptAt = UnicodeAttribute(null=True)

    due = Due()
    byFunction = ByFunction()
    byOrder = ByOrder()


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


def written(write: Callable[[], object]) -> bool:
    """Make a write that has a condition; return False where that was not met."""
    try:
        write()
    except (PutError, UpdateError) as error:
        # An error of the connection has a response, too: None.
        response = getattr(error.cause, "response", None) or {}
        if response.get("Error", {}).get("Code") != "ConditionalCheckFailedException":
            raise
        return False
    return True


@cache
def bound[M: Model](model: type[M], table: str, retries: int = 1) -> type[M]:
    """Return `model` for the table of that name; a call that fails in passing is made so many times more."""

    class Meta:
        table_name = table
        connect_timeout_seconds = CONNECT_TIMEOUT_SECONDS
        read_timeout_seconds = READ_TIMEOUT_SECONDS
        max_retry_attempts = retries

    return cast(type[M], new_class(model.__name__, (model,), exec_body=lambda body: body.update(Meta=Meta)))
