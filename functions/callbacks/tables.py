"""The DynamoDB tables as PynamoDB models, with the keys of template.yaml."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import StrEnum
from functools import cache
from types import new_class
from typing import Any, Literal, cast

from pynamodb.attributes import (
    Attribute,
    BooleanAttribute,
    ListAttribute,
    MapAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UnicodeSetAttribute,
)
from pynamodb.constants import NUMBER
from pynamodb.exceptions import DeleteError, PutError, UpdateError
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action
from pynamodb.indexes import GlobalSecondaryIndex, IncludeProjection, KeysOnlyProjection
from pynamodb.models import Model
from pynamodb.pagination import PageIterator, ResultIterator

from callbacks import clients, deadline

# Lets all calls of InvokeProcessPaid fit into its time. Tables with the same timeout share a client.
READ_TIMEOUT_SECONDS = 0.47


class DecimalAttribute(Attribute[Decimal]):
    """An exact number; PynamoDB's own NumberAttribute reads a float."""

    attr_type = NUMBER

    def serialize(self, value: Decimal) -> str:
        return str(value)

    def deserialize(self, value: str) -> Decimal:
        return Decimal(value)


class Undispatched(GlobalSecondaryIndex["CallbackRecord"]):
    """Paid records without a confirmed dispatch, by shard and time of receipt."""

    class Meta:
        index_name = "undispatched"
        projection = KeysOnlyProjection()

    shard = UnicodeAttribute(hash_key=True)
    undispatchedSince = UnicodeAttribute(range_key=True)


class CallbackRecord(Model):
    """One delivery of a callback: what was received never changes, the outcome is added once.

    The range key starts with the time of receipt, so a Query on `orderId` reads an order's callbacks in order of
    arrival. `undispatchedSince` is the time of receipt while a paid delivery waits for its dispatch to be confirmed;
    then `dispatchedBy` is the delivery that was dispatched, this one or an earlier one of the same payment.
    `signature`, `crossCheck` and `inquiry` are the checks' verdicts: `skipped`, `passed`, or `failed: ` and why.
    `expiration` is when DynamoDB may delete the item, in seconds since 1970.
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
    shard = UnicodeAttribute()
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
    expiration = NumberAttribute(null=True)

    undispatched = Undispatched()


# What both indexes of the error log hold beside their keys. None holds the cause or the event, which can be large.
SUMMARY = ["status", "attempts", "step", "error", "chargeId", "lastResult"]


class Unresolved(GlobalSecondaryIndex["CallbackError"]):
    """Every failure that is not resolved, by queue and the time for which it is queued."""

    class Meta:
        index_name = "unresolved"
        projection = IncludeProjection([*SUMMARY, "occurredAt", "orderId", "lane"])

    queue = UnicodeAttribute(hash_key=True)
    queuedAt = UnicodeAttribute(range_key=True)


class ByOrder(GlobalSecondaryIndex["CallbackError"]):
    """An order's failed deliveries, by the time of the first failure."""

    class Meta:
        index_name = "byOrder"
        projection = IncludeProjection(SUMMARY)

    orderId = UnicodeAttribute(hash_key=True)
    occurredAt = UnicodeAttribute(range_key=True)


class Status(StrEnum):
    """OPEN waits for its next attempt or for an operator. REDRIVEN is being redriven now.

    RESOLVED was redriven successfully. GIVEN_UP failed at the last attempt that healing makes.
    """

    OPEN = "open"
    REDRIVEN = "redriven"
    RESOLVED = "resolved"
    GIVEN_UP = "given up"


class Decision(MapAttribute[str, Any]):
    """What an operator decided on a failure; callbacks.decisions describes it. `attempt` is the redrive it caused.

    A dismissal causes none: its `attempt` is that of the latest redrive.
    """

    id = UnicodeAttribute()
    action = UnicodeAttribute()
    by = UnicodeAttribute()
    reason = UnicodeAttribute()
    at = UnicodeAttribute()
    attempt = NumberAttribute()


class CallbackError(Model):
    """One failed delivery, with everything needed to explain and redrive it.

    `occurredAt` is the time of its first failure; `step`, `error`, `cause` and `executionArn` belong to the last.
    `attempts` counts its redrives. `queue` (see callbacks.queues) and `queuedAt` exist until it is resolved: `queuedAt`
    is the time of its next redrive, or of its first failure while it waits for an operator. `lane` is the lane of its
    automatic redrives. `verdicts` are those of the checks, by their names; see callbacks.verdicts. `decisions` are the
    operators', oldest first. `event` is the delivery as first stored, see callbacks.deliveries. `expiration` is when
    DynamoDB may delete the item, in seconds since 1970: a callback that was refused at once, or a resolved failure.
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
    lane = UnicodeAttribute()
    queue = UnicodeAttribute(null=True)
    queuedAt = UnicodeAttribute(null=True)
    verdicts = MapAttribute[str, str](null=True)  # type: ignore[no-untyped-call]
    decisions = ListAttribute[Decision](of=Decision, null=True)
    expiration = NumberAttribute(null=True)

    unresolved = Unresolved()
    byOrder = ByOrder()

    def is_decided(self, attempt: float) -> bool:
        """Return whether an operator decided on this attempt."""
        return bool(self.decisions) and self.decisions[-1].attempt == attempt


class ByPaymentId(GlobalSecondaryIndex["Payment"]):
    """The payments that have a payment id, by their orders."""

    class Meta:
        index_name = "byPaymentId"
        projection = KeysOnlyProjection()

    paymentId = UnicodeAttribute(hash_key=True)
    orderKey = UnicodeAttribute(range_key=True)


class Payment(Model):
    """One payment in the ledger; callbacks.ledger draws its states and makes its transitions.

    `orderKey` is the channel and the order id, joined by `#`. `amountDigest` is missing if the callback had no amount,
    and both digests are if the payment was marked as dispatched by hand.
    `claimedBy` (a delivery), `claimedUntil` and `attemptId` exist while a delivery dispatches the
    payment; then `dispatchedBy` (a delivery), `dispatchedAt` and `invokeRequestId`, which process-paid logs as its own.
    `failedRequestId` is that of the latest dispatch for which process-paid failed for good.
    `dispatches` counts how often process-paid may have been invoked. `decisionIds` are the operators' decisions
    that were used to dispatch it.
    """

    orderKey = UnicodeAttribute(hash_key=True)
    paymentId = UnicodeAttribute(range_key=True)
    userDigest = UnicodeAttribute(null=True)
    amountDigest = UnicodeAttribute(null=True)
    dispatches = NumberAttribute()
    claimedBy = UnicodeAttribute(null=True)
    claimedUntil = UnicodeAttribute(null=True)
    attemptId = UnicodeAttribute(null=True)
    dispatchedBy = UnicodeAttribute(null=True)
    dispatchedAt = UnicodeAttribute(null=True)
    invokeRequestId = UnicodeAttribute(null=True)
    failedRequestId = UnicodeAttribute(null=True)
    decisionIds = UnicodeSetAttribute(null=True)

    byPaymentId = ByPaymentId()


class Alert(Model):
    """One kind of failure and its latest alert window, which ends at `windowEndsAt` (seconds since 1970)."""

    kind = UnicodeAttribute(hash_key=True)
    windowEndsAt = NumberAttribute()
    openedBy = UnicodeAttribute()
    expiration = NumberAttribute()


class Suppressed(Alert):
    """How many failures of a kind were not reported within one alert window: one shard of that count.

    In the table of the alerts, without `openedBy`; `kind` has the window's end and the shard as well. `since` and
    `lastAt` are when the first and the last of them failed, `lastOrder` and `lastRequest` are ids of the last.
    `emailed` and `sentToSentry` are how many of them ReportSuppressed has told operators of.
    """

    channel = UnicodeAttribute()
    functionName = UnicodeAttribute()
    step = UnicodeAttribute()
    error = UnicodeAttribute()
    failures = NumberAttribute()
    since = UnicodeAttribute()
    lastAt = UnicodeAttribute()
    lastOrder = UnicodeAttribute()
    lastRequest = UnicodeAttribute()
    emailed = NumberAttribute(default=0)
    sentToSentry = NumberAttribute(default=0)


def find[M: Model](model: type[M], hash_key: str, range_key: str | None = None) -> M | None:
    """Return the item of a bound model as it is now, or None."""
    try:
        item: M = model.get(hash_key, range_key, consistent_read=True)
    except model.DoesNotExist:
        return None
    return item


def try_write(write: Callable[[], object]) -> bool:
    """Make a conditional write; return False if its condition was not met."""
    try:
        write()
    except (DeleteError, PutError, UpdateError) as error:
        # A connection error has a response as well: None.
        response = getattr(error.cause, "response", None) or {}
        if response.get("Error", {}).get("Code") != "ConditionalCheckFailedException":
            raise
        return False
    return True


def try_update(item: Model, actions: Sequence[Action], condition: Condition) -> bool:
    """Make a conditional update; return False if its condition was not met.

    Unlike Model.update it does not read the whole item back, which takes a seventh of the call's CPU.
    """
    hash_key, range_key = item._get_hash_range_key_serialized_values()
    table = item._get_connection()
    return try_write(lambda: table.update_item(hash_key, range_key, actions=actions, condition=condition))


@cache
def bind[M: Model](
    model: type[M], table: str, *, read_timeout: float = READ_TIMEOUT_SECONDS, retries: Literal[0, 1] = 0
) -> type[M]:
    """Return `model` for the named table, with its client, and with so many retries per call."""

    class Meta:
        table_name = table

    bound = cast(type[M], new_class(model.__name__, (model,), exec_body=lambda body: body.update(Meta=Meta)))
    # PynamoDB would make a client for each model, and not before the first call, in the handler's time.
    bound._get_connection().connection._client = clients.connect(
        "dynamodb", read_timeout=read_timeout, attempts=1 + retries
    )
    return bound


def longest_call(model: type[Model]) -> float:
    """Return the seconds that a call of a bound model takes at most."""
    return deadline.longest_call(model._get_connection().connection.client)


class TimelyPages:
    """The pages of a query, up to the last that `has_time` allows; the first is always read."""

    def __init__(self, pages: PageIterator[Any], has_time: Callable[[], bool]) -> None:
        self._pages = pages
        self._has_time = has_time
        self._has_begun = False

    def __next__(self) -> Any:
        if self._has_begun and not self._has_time():
            raise StopIteration
        self._has_begun = True
        return next(self._pages)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pages, name)


def read_while[M: Model](has_time: Callable[[], bool], rows: ResultIterator[M]) -> ResultIterator[M]:
    """Return the rows of a query's first page, and of the next ones while there is time for another.

    Its `last_evaluated_key` is where to go on.
    """
    rows.page_iter = TimelyPages(rows.page_iter, has_time)  # type: ignore[assignment]
    return rows
