"""ReopenPayment: reopens a payment for which process-paid failed for good, so that healing dispatches it again.

Lambda accepted the dispatch, tried process-paid in vain and gave up. Its record of that, an invocation record, arrives
through a queue, at least once. https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
"""

import json
from dataclasses import replace
from typing import Any

from pynamodb.expressions.update import Action

from callbacks import clients, config, error_log, ledger, model, redrives, times
from callbacks.errors import DispatchInProgress
from callbacks.failure import Failure
from callbacks.queues import Lane
from callbacks.tables import CallbackError, CallbackRecord, Status, bind, find, try_update, try_write
from callbacks.telemetry import logger

CHANNEL = config.required("CHANNEL")
FUNCTION_NAME = config.required("FUNCTION_NAME")
REPORTS = (config.required("SENTRY_FUNCTION"), config.required("EMAIL_FUNCTION"))
MAX_WORD_CHARACTERS = 100

Records = bind(CallbackRecord, config.required("RECORD_TABLE"), retries=1)
ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"), retries=1)
lambda_client = clients.connect("lambda", connect_timeout=0.5, read_timeout=1, attempts=2)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Open a failure of the dispatched delivery, report it and reopen the payment, in this order.

    Takes SQS's `Records`, each with `messageId` and, as `body`, an invocation record. Every step can be repeated. A
    record whose request is not the latest dispatch of one of our payments changes nothing.
    Returns `batchItemFailures`: the messages that the queue delivers again, and in the end to its dead-letter queue.
    """
    failed = []
    for message in event["Records"]:
        try:
            _read(json.loads(message["body"]))
        except Exception as error:  # noqa: BLE001 - Lambda would log the error's text
            logger.warning("Message not handled", messageId=message["messageId"], error=type(error).__name__)
            failed.append({"itemIdentifier": message["messageId"]})
    return {"batchItemFailures": failed}


def _read(invocation: dict[str, Any]) -> None:
    request_id = invocation["requestContext"]["requestId"]
    order_id, payment_id = model.find_ids(invocation["requestPayload"])
    named = {"orderId": order_id, "paymentId": payment_id, "invokeRequestId": request_id}
    attempt = ledger.Attempt(CHANNEL, named, attempt_id="")
    delivery_id = ledger.find_dispatch(attempt, request_id) if order_id and payment_id else None
    if delivery_id is None:
        logger.info("Not the latest dispatch of a payment", **named)
        return
    failure = error_log.failure_of(
        Records.get(order_id, delivery_id, consistent_read=True),
        function_name=FUNCTION_NAME,
        step="ProcessPaid",
        error="ProcessPaidFailed",
        cause=_cause(invocation),
        occurred_at=times.iso(times.now()),
    )
    row = _open(failure)
    _report(_given_up(failure, row) if row.status == Status.GIVEN_UP else failure)
    is_reopened = ledger.reopen(attempt, request_id)
    if is_reopened:
        _open_after_redrive(failure, row.attempts)
    logger.info("Process-paid failed", **named, deliveryId=delivery_id, isReopened=is_reopened)


def _cause(invocation: dict[str, Any]) -> str:
    """Return why Lambda gave up. An error's message may name the customer; its type does not."""
    context, answer = invocation["requestContext"], invocation.get("responsePayload")
    error_type = answer.get("errorType") if isinstance(answer, dict) else None
    condition, count, error = (
        str(word or "unknown")[:MAX_WORD_CHARACTERS]
        for word in (context.get("condition"), context.get("approximateInvokeCount"), error_type)
    )
    return f"Lambda gave up: {condition}; invocations of process-paid: {count}; error: {error}"


def _open(failure: Failure) -> CallbackError:
    """Open the failure, or give it up if all its redrives are used up; return its item.

    Raises DispatchInProgress while the delivery is being redriven: the redrive would overwrite the status.
    """
    item: CallbackError = ErrorLog(failure.request_id)
    row = find(ErrorLog, failure.request_id)
    is_unchanged = (
        CallbackError.requestId.does_not_exist()
        if row is None
        else (CallbackError.status == row.status) & (CallbackError.attempts == row.attempts)
    )
    is_written = (row is None or row.status != Status.REDRIVEN) and try_write(
        lambda: item.update(actions=[*error_log.facts(failure), *_changes(row, failure)], condition=is_unchanged)
    )
    if not is_written:
        raise DispatchInProgress("The delivery is being redriven")
    return item


def _open_after_redrive(failure: Failure, attempts: float) -> None:
    """Open the failure again if it was redriven meanwhile: the redrive may have found the payment dispatched.

    The higher number of attempts keeps that redrive from settling the failure.
    """
    row = find(ErrorLog, failure.request_id)
    if row is not None and row.attempts != attempts:
        next_attempts = row.attempts + 1
        opening = error_log.opening(failure, redrives.due_after(next_attempts, times.now()), next_attempts)
        actions = [*opening, CallbackError.expiration.remove()]
        # A later redrive finds the payment reopened.
        try_update(row, actions, CallbackError.attempts == row.attempts)


def _changes(row: CallbackError | None, failure: Failure) -> list[Action]:
    """Return what changes on the failure beside its facts: if it is open or given up, it stays so."""
    attempts = 0 if row is None else row.attempts
    if row is not None and row.status != Status.RESOLVED:
        return []
    if redrives.is_last(attempts, failure.lane):
        return [
            CallbackError.status.set(Status.GIVEN_UP),
            CallbackError.lastResult.set(failure.cause),
            *error_log.waiting(failure.channel, failure.request_id, Lane.GIVEN_UP, times.now()),
        ]
    return error_log.opening(failure, redrives.due_after(attempts, times.now()), attempts)


def _given_up(failure: Failure, row: CallbackError) -> Failure:
    cause = f"Redriven {row.attempts:.0f} times, last result: {failure.cause}"
    return replace(failure, error="GivenUp", message=cause, cause=cause)


def _report(failure: Failure) -> None:
    """Start both reports. One that fails must not keep the payment from being dispatched again."""
    for function in REPORTS:
        try:
            _start(function, failure)
        except Exception as error:  # noqa: BLE001
            logger.warning("Report not started", function=function, error=type(error).__name__)


def _start(function: str, failure: Failure) -> None:
    answer = lambda_client.invoke(
        FunctionName=function, InvocationType="Event", Payload=json.dumps(failure.as_event()).encode()
    )
    # Frees the connection for the next invoke.
    answer["Payload"].read()
