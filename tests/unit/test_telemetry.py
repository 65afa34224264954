"""The log of the tasks: one line of JSON for each entry."""

from datetime import datetime

import pytest

from callbacks.telemetry import logger
from tests.unit.kit import Log


def test_an_entry_has_its_level_its_time_and_its_facts(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-6745-aa;Parent=bb;Sampled=1")
    logger.info("Recorded", orderId="1", isNew=True)
    logger.warning("Slow\nline")
    logger.error("Lost")
    lines = log()
    assert all(datetime.fromisoformat(line.pop("timestamp")).tzinfo for line in lines)
    shared = {"service": "payment3-callback", "xray_trace_id": "1-6745-aa"}
    assert lines == [
        {"level": "INFO", "message": "Recorded", "orderId": "1", "isNew": True, **shared},
        {"level": "WARNING", "message": "Slow\nline", **shared},
        {"level": "ERROR", "message": "Lost", **shared},
    ]
