"""InvokeProcessPaid: dispatches a paid callback to the function that completes the order, once per payment."""

from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError

from callbacks import clients, config, deadline, ledger
from callbacks.deadline import Context
from callbacks.errors import (
    DispatchInProgress,
    DispatchUncertain,
    DispatchUndecided,
    OrderPaidTwice,
    PaymentConflict,
)
from callbacks.shown import show
from callbacks.tables import CallbackRecord, bind, find, longest_call, try_update
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors

MAX_REPEATS = int(config.required("MAX_DISPATCH_REPEATS"))
# What a slow invoke and then a slow write to finish the claim take, on open connections.
DISPATCH_SECONDS = 1.5
HOLD = "hold"
RECORD_GONE = "An earlier delivery may have dispatched the payment, but its record is gone"
PAID_TWICE = "Payment {} of the order was dispatched too"

# No retry: if only the answer was lost, it would invoke twice.
lambda_client = clients.connect("lambda", read_timeout=0.95)


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Invoke the process-paid function asynchronously with the body, byte for byte as received.

    Takes `channel`, `function` (name of the process-paid function), `table` (the channel's records),
    `secondPaymentMode` (`warn`, or `hold` to leave another payment of a paid order to an operator), `callback`
    (what ValidateCallback returned), `verdicts` (of the checks: `crossCheck`, `inquiry`) and `body` (as received).
    Returns the `orderId` and the `paymentId`; `dispatchedBy`, the `deliveryId` whose invoke Lambda accepted;
    `isDuplicate`: true if that was another delivery of the same payment; `isConfirmed`: whether this delivery's record
    shows the dispatch, or has been erased; and `contradiction`: None, or the `error` (OrderPaidTwice,
    PaymentIdReused or PaymentsNotCompared) and its `message`.
    Raises OrderPaidTwice, PaymentConflict, DispatchInProgress, DispatchUncertain, DispatchUndecided and
    ServiceUnavailable.
    """
    callback = event["callback"]
    attempt = ledger.Attempt(event["channel"], callback, context.aws_request_id)
    with translate_transient_errors():
        dispatched_by = _claim(attempt, event, context)
    if dispatched_by is None:
        _dispatch(attempt, event, context)
        dispatched_by = attempt.delivery_id
    is_duplicate = dispatched_by != callback["deliveryId"]
    ids = {name: callback[name] for name in ("orderId", "paymentId", "deliveryId")}
    if is_duplicate:
        logger.info("Payment already dispatched", **ids, dispatchedBy=dispatched_by)
    else:
        logger.info("Process-paid invoked", **ids)
    # ConfirmDispatch does it for a duplicate, so that the answer takes as long as that to a conflict.
    is_confirmed = not is_duplicate and _confirm(event, context)
    contradiction = None if is_duplicate else _find_contradiction(attempt, context)
    return {
        "orderId": callback["orderId"],
        "paymentId": callback["paymentId"],
        "dispatchedBy": dispatched_by,
        "isDuplicate": is_duplicate,
        "isConfirmed": is_confirmed,
        "contradiction": contradiction,
    }


def _claim(attempt: ledger.Attempt, event: dict[str, Any], context: Context) -> str | None:
    """Claim the payment as ledger.claim does; if its answer is lost, give the claim back for the state's retry."""
    lifetime = timedelta(seconds=deadline.seconds_left(context))
    is_recorded, require_time = partial(_is_recorded, event, context), partial(deadline.require, context)
    try:
        return ledger.claim(attempt, lifetime, MAX_REPEATS, is_recorded, require_time)
    except (DispatchInProgress, DispatchUndecided, PaymentConflict):
        raise
    except Exception:
        with suppress(Exception):
            _release(attempt, context)
        raise


def _dispatch(attempt: ledger.Attempt, event: dict[str, Any], context: Context) -> None:
    """Invoke process-paid for a claimed payment, and finish the claim, or release it if nothing was invoked."""
    try:
        if event["secondPaymentMode"] == HOLD and attempt.permit is None:
            _require_no_other_payment(attempt, context)
        deadline.require(context, DISPATCH_SECONDS)
        request_id = _invoke(event["function"], event["body"].encode())
    except DispatchUncertain:
        raise
    except Exception:
        _release(attempt, context)
        with translate_transient_errors():
            raise
    try:
        deadline.require(context, longest_call(ledger.Payments))
        ledger.finish(attempt, request_id)
    except Exception as error:  # noqa: BLE001 - Lambda accepted the invoke: to fail now would dispatch again
        logger.warning("The dispatch could not be stored", deliveryId=attempt.delivery_id, error=type(error).__name__)


def _confirm(event: dict[str, Any], context: Context) -> bool:
    """Confirm the delivery's own dispatch on its record, as ConfirmDispatch does; return whether nothing is left to do.

    It must not fail: the payment is dispatched.
    """
    callback = event["callback"]
    try:
        records, verdicts = bind(CallbackRecord, event["table"]), event["verdicts"]
        deadline.require(context, longest_call(records))
        is_found = try_update(
            records(callback["orderId"], callback["deliveryId"]),
            [
                CallbackRecord.dispatchedBy.set(callback["deliveryId"]),
                CallbackRecord.crossCheck.set(verdicts["crossCheck"]),
                CallbackRecord.inquiry.set(verdicts["inquiry"]),
                CallbackRecord.undispatchedSince.remove(),
            ],
            # Otherwise it would write a part of a record that has been erased meanwhile.
            condition=CallbackRecord.orderId.exists(),
        )
    except Exception as error:  # noqa: BLE001
        logger.warning(
            "The dispatch could not be confirmed", deliveryId=callback["deliveryId"], error=type(error).__name__
        )
        return False
    if not is_found:
        logger.warning("The record was erased before its dispatch was confirmed", deliveryId=callback["deliveryId"])
    return True


def _require_no_other_payment(attempt: ledger.Attempt, context: Context) -> None:
    deadline.require(context, longest_call(ledger.Payments) + ledger.RELEASE_SECONDS)
    if other := ledger.find_other_payment(attempt):
        raise OrderPaidTwice(PAID_TWICE.format(show(other)))


def _find_contradiction(attempt: ledger.Attempt, context: Context) -> dict[str, str] | None:
    """Return how the dispatched payment contradicts others. It must not fail: the payment is dispatched."""
    try:
        deadline.require(context, 2 * longest_call(ledger.Payments))
        if other := ledger.find_other_payment(attempt):
            return {"error": "OrderPaidTwice", "message": PAID_TWICE.format(show(other))}
        if other := ledger.find_other_order(attempt):
            return {"error": "PaymentIdReused", "message": f"The payment id was used for order {show(other)} too"}
    except Exception as error:  # noqa: BLE001
        reason = f"Other payments could not be looked up: {type(error).__name__}"
        return {"error": "PaymentsNotCompared", "message": reason}
    return None


def _release(attempt: ledger.Attempt, context: Context) -> None:
    """Release the claim. If that fails, raise an error that the workflow does not retry: it would use up a repeat."""
    try:
        deadline.require(context, ledger.RELEASE_SECONDS)
        ledger.release(attempt)
    except Exception as error:
        raise DispatchUncertain("Nothing was dispatched, but the claim on the payment could not be released") from error


def _invoke(function: str, payload: bytes) -> str:
    """Invoke the function and return the request id. Raises DispatchUncertain if Lambda may have accepted it."""
    try:
        answer = lambda_client.invoke(FunctionName=function, InvocationType="Event", Payload=payload)
    except (ClientError, ConnectTimeoutError, EndpointConnectionError):
        # Lambda refused it, or never received it.
        raise
    except Exception as error:
        raise DispatchUncertain("Lambda did not answer, so the payment may have been dispatched") from error
    # Frees the connection for the next invoke. Whatever happens here, Lambda has accepted this one.
    with suppress(Exception):
        answer["Payload"].read()
    return str(answer["ResponseMetadata"].get("RequestId", "unknown"))


def _is_recorded(event: dict[str, Any], context: Context, delivery_id: str) -> bool:
    """Return whether the record of a delivery of this order shows a dispatch.

    A delivery is recorded before it claims a payment. Raises DispatchUndecided if its record has expired or was erased:
    it may have shown one.
    """
    records = bind(CallbackRecord, event["table"])
    # If it does, the ledger is told.
    deadline.require(context, longest_call(records) + longest_call(ledger.Payments))
    record = find(records, event["callback"]["orderId"], delivery_id)
    if record is None:
        raise DispatchUndecided(RECORD_GONE)
    return record.dispatchedBy is not None
