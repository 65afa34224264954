"""Sends events to Sentry before a function returns; without SENTRY_DSN, Sentry is off."""

from typing import Any

import sentry_sdk
import urllib3
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sentry_sdk.utils import Dsn

from callbacks import config
from callbacks.errors import ServiceUnavailable
from callbacks.failure import Kind

http = urllib3.PoolManager(timeout=urllib3.Timeout(total=1.5), retries=False)


class SentryRefusal(Exception):
    """Sentry rejected the event for good; a retry does not help."""


class DirectTransport(Transport):
    """Sends synchronously and raises if that fails.

    The SDK's own transport sends from a thread, which Lambda freezes, and silently drops what it cannot send.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._auth = Dsn(options["dsn"]).to_auth("payment3-callback")

    def capture_envelope(self, envelope: Envelope) -> None:
        """Post the envelope. Raises ServiceUnavailable, or SentryRefusal if a retry cannot help."""
        headers = {"Content-Type": "application/x-sentry-envelope", "X-Sentry-Auth": self._auth.to_header()}
        url, body = self._auth.get_api_url(), envelope.serialize()
        try:
            # The status says everything; do not wait for a body that trickles in.
            response = http.request("POST", url, body=body, headers=headers, preload_content=False)
            response.close()
        except urllib3.exceptions.HTTPError as error:
            raise ServiceUnavailable(f"Sentry cannot be reached: {type(error).__name__}") from error
        if response.status == 429 or response.status >= 500:
            raise ServiceUnavailable(f"Sentry answered {response.status}")
        if response.status >= 300:
            raise SentryRefusal(f"Sentry answered {response.status}")


ENVIRONMENT = config.required("ENVIRONMENT")

dsn = config.optional("SENTRY_DSN")
if dsn:
    # No integrations: they would add request data, arguments and local variables to the event.
    sentry_sdk.init(
        dsn=dsn,
        environment=ENVIRONMENT,
        transport=DirectTransport,
        default_integrations=False,
        auto_enabling_integrations=False,
    )


def send(kind: Kind, message: str, tags: dict[str, str], contexts: dict[str, dict[str, object]]) -> str | None:
    """Send an event, grouped by the kind: function, step and error. Return its id.

    Raises ServiceUnavailable and SentryRefusal.
    """
    function_name, step, error = kind
    return sentry_sdk.capture_event(
        {
            "level": "error",
            "exception": {"values": [{"type": error, "value": message}]},
            "fingerprint": list(kind),
            "tags": {"function": function_name, "environment": ENVIRONMENT, "step": step, **tags},
            "contexts": contexts,
        }
    )
