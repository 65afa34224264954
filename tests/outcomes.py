"""The outcome of each file of events/, whichever engine runs it."""

import json
from dataclasses import dataclass
from typing import Any

from local.stack import ROOT

FAILURE_MESSAGE = "Failed to process bank app callback"


@dataclass(frozen=True)
class Outcome:
    """Recorded and perhaps dispatched (`processing`), or refused with this message."""

    processing: bool = False
    refusal: str | None = None

    @property
    def status(self) -> int:
        return 500 if self.refusal else 200

    def assert_met_by(self, answer: dict[str, Any]) -> None:
        """Fail unless the answer is exactly this refusal, or says this of a success."""
        if self.refusal:
            expected = {"success": False, "error": self.refusal, "message": FAILURE_MESSAGE}
        else:
            expected = {**answer, "success": True, "processing": self.processing}
        # Compared as text, in which true is not 1.
        given, wanted = (json.dumps(value, sort_keys=True) for value in (answer, expected))
        assert given == wanted, f"answered {given} instead of {wanted}"


PROCESSED = Outcome(processing=True)

OUTCOMES = {
    "declined": Outcome(),
    "duplicate-keys": Outcome(refusal="success: appears more than once"),
    "empty": Outcome(refusal="body: is empty"),
    "exact-amount": PROCESSED,
    "malformed": Outcome(refusal="body: is not JSON (Expecting value, line 1 column 72)"),
    "missing-fields": Outcome(refusal="orderId: is missing; userId: is missing; success: is missing"),
    "not-a-number": Outcome(refusal="amount: must be a finite number"),
    "not-json": Outcome(refusal="body: is not JSON (Expecting value, line 1 column 1)"),
    "only-required-fields": PROCESSED,
    "paid": PROCESSED,
    "paid-again": PROCESSED,
    "text-of-all-kinds": PROCESSED,
    "unknown-fields": PROCESSED,
    "wrong-types": Outcome(
        refusal="orderId: must be a string, not a number; paymentId: must not be empty; "
        "userId: must be a string, not null; success: must be true or false, not a string; "
        "amount: must be a number, not a string; message: must be a string, not a number"
    ),
}


def body_of(name: str) -> str:
    """Return the request body of a file of events/."""
    body = json.loads((ROOT / "events" / f"{name}.json").read_text())["body"]
    assert isinstance(body, str)
    return body
