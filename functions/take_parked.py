"""TakeParked: takes into the error log what the callback workflow parked because it could not write it there."""

import json
from typing import Any

from callbacks import clients, config, deadline, error_log, redrives
from callbacks.deadline import Context
from callbacks.failure import Failure
from callbacks.tables import CallbackError, bind, longest_call
from callbacks.telemetry import logger
from callbacks.transient import translate_transient_errors

QUEUE_URL = config.required("PARKED_QUEUE_URL")
REFUSAL_RETENTION_DAYS = int(config.required("REFUSAL_RETENTION_DAYS"))
# As many as SQS returns at once.
MESSAGES_PER_BATCH = 10

ErrorLog = bind(CallbackError, config.required("ERROR_LOG_TABLE"))
# The queue lets an empty answer wait for a second.
sqs = clients.connect("sqs", read_timeout=2)

type Message = dict[str, str]


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Write parked failures to the error log and delete their messages, until the queue is empty or time is short.

    A failure that the error log has is left as it is: the queue delivers a message more than once, CollectUndispatched
    may have found the delivery's record, or the delivery was parked by a redrive.
    A message that cannot be understood stays in the queue, whose redrive policy moves it to the dead-letter queue.
    Returns `isEmpty`: whether the queue had no more messages. Raises ServiceUnavailable.
    """
    batch_seconds = 2 * deadline.longest_call(sqs) + MESSAGES_PER_BATCH * longest_call(ErrorLog)
    while deadline.seconds_left(context) >= batch_seconds:
        with translate_transient_errors():
            messages = sqs.receive_message(QueueUrl=QUEUE_URL, MaxNumberOfMessages=MESSAGES_PER_BATCH).get("Messages")
            if not messages:
                return {"isEmpty": True}
            _delete([message for message in messages if _take(message)])
    return {"isEmpty": False}


def _take(message: Message) -> bool:
    """Write what a message holds to the error log; return False if it cannot be understood."""
    try:
        failure = Failure.from_event(json.loads(message["Body"]))
    except Exception as error:  # noqa: BLE001 - whatever it holds, it must not stop the other messages
        logger.error("Parked message not understood", messageId=message["MessageId"], error=type(error).__name__)
        return False
    due_at = redrives.first_due_at(failure.occurred_at)
    is_new = error_log.open_failure(ErrorLog, failure, error_log.IS_NEW, due_at, REFUSAL_RETENTION_DAYS)
    logger.info("Parked delivery taken", requestId=failure.request_id, orderId=failure.order_id, isNew=is_new)
    return True


def _delete(messages: list[Message]) -> None:
    """Delete messages; one that stays is received again, and changes nothing."""
    if messages:
        entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)]
        sqs.delete_message_batch(QueueUrl=QUEUE_URL, Entries=entries)
