"""Structured logs. They contain order and payment ids, never user ids, bodies, headers or secrets."""

import json
import os

from callbacks import times
from callbacks.shown import show

# What a caller chooses.
IDS = ("orderId", "paymentId", "requestId")


class Logger:
    """Writes lines of JSON to the standard output, which Lambda keeps as the function's log.

    Ids are shown as callbacks.shown does.
    """

    def info(self, message: str, **facts: object) -> None:
        """Log that something happened."""
        self._write("INFO", message, facts)

    def warning(self, message: str, **facts: object) -> None:
        """Log what is wrong, although the function goes on."""
        self._write("WARNING", message, facts)

    def error(self, message: str, **facts: object) -> None:
        """Log what somebody has to look at."""
        self._write("ERROR", message, facts)

    def _write(self, level: str, message: str, facts: dict[str, object]) -> None:
        line = {
            "level": level,
            "message": message,
            "timestamp": times.iso(times.now()),
            "service": "payment3-callback",
            # `Root=1-…;Parent=…;Sampled=1`: Lambda sets it anew for each invocation.
            "xray_trace_id": os.environ.get("_X_AMZN_TRACE_ID", "").partition(";")[0].removeprefix("Root="),
            **facts,
        }
        shown = {name: show(value) for name, value in facts.items() if name in IDS and isinstance(value, str)}
        print(json.dumps(line | shown), flush=True)


logger = Logger()
