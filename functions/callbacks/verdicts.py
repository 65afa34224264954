"""What a failure keeps of the checks, and what that means for its redrive: a verdict is not lost with its execution.

A check that passed is not made again: the key that proves a signature may be gone by then, and the order may have
changed. A check that refused the callback is made again in `enforce`, even if its mode is laxer by now: otherwise
switching a check off would pay the forgeries that wait. Any other check is made as its mode says.

ClaimFailure puts `earlier` into the callback workflow's input. The API builds that input without it, so no caller can
switch a check off.
"""

from typing import Any

from callbacks import errors
from callbacks.errors import Refusal, Unconfirmed
from callbacks.modes import Mode

PASSED = "passed"
# With why.
REFUSED, FAILED = "refused: ", "failed: "
# The errors by which a check refuses a callback; with any other error it could not be made.
REFUSING = errors.names_of(Refusal) | errors.names_of(Unconfirmed)

type Verdicts = dict[str, str]


def of_failure(checks: dict[str, dict[str, str]], step: str, error: str) -> Verdicts:
    """Return each check's verdict in a failed execution: `refused: ` and the error if the check made it fail."""
    verdicts = {check: outcome["verdict"] for check, outcome in checks.items()}
    return verdicts | ({step: f"{REFUSED}{error}"} if step in verdicts and error in REFUSING else {})


def earlier(verdicts: Verdicts, *, is_despite: bool) -> dict[str, Any]:
    """Return what the callback workflow takes over from these verdicts.

    `checks` are the verdicts that stand until a check is made, `modes` those that differ from today's. If an operator
    wants the callback dispatched despite a refusal, only today's modes count.
    """
    refused = [check for check, verdict in verdicts.items() if verdict.startswith(REFUSED)]
    standing = verdicts | ({check: FAILED + verdicts[check].removeprefix(REFUSED) for check in refused if is_despite})
    return {
        "checks": {check: {"verdict": verdict} for check, verdict in standing.items()},
        "modes": {} if is_despite else dict.fromkeys(refused, str(Mode.ENFORCE)),
    }
