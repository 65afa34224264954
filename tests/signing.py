"""Signs callbacks as the bank does, with the reference implementation of Standard Webhooks."""

from datetime import datetime

from standardwebhooks.webhooks import Webhook


def signature_headers(body: str, key: str, signed_at: datetime, message_id: str = "msg_1") -> dict[str, str]:
    """Return the headers that sign a body."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(signed_at.timestamp())),
        "webhook-signature": Webhook(key).sign(message_id, signed_at, body),
    }
