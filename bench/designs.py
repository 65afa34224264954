"""The two designs under measurement: which functions run on a path, with which event, and in which process."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import artefact
from bench.account import Account, empty_tables, serving_account
from bench.deployment import PRODUCTION
from bench.paths import (
    BASELINE,
    BASELINE_FUNCTION,
    COUNTED,
    FAILING,
    IDLE,
    OURS,
    REQUEST_IDS,
    SMALL,
    body_of_path,
    numbered,
    of_kind,
    proxy_event,
    recorded,
)
from bench.runtime import Container, Invocation
from tests.sources import FUNCTIONS, timeout_of
from tests.workflow import engine

BASELINE_HANDLER = "bankappcallback.lambda_handler"
Step = tuple[str, str]
# Our function that fails on a path, if one does.
FAILS_IN = {
    **dict.fromkeys(("refused", "malformed"), "ValidateCallback"),
    **dict.fromkeys(FAILING, "SaveCallbackRecord"),
}


@dataclass
class Bench:
    """Both designs and the account that they call."""

    account: Account
    ours: Path
    baseline: Path
    runtime_client: Path
    _warm: dict[Step, Container] = field(default_factory=dict)
    _exits: ExitStack = field(default_factory=ExitStack)

    def steps(self, design: str, path: str, size: int, number: int) -> list[Step]:
        """Return the calls of functions that the measured delivery of a path makes, in order.

        Each failure is of a kind of its own, so it is the first of its alert window, unless the path is COUNTED.
        """
        if design == OURS:
            payloads = recorded()[path, size]["payloads"]
            kind = 0 if path == COUNTED else number
            return [(each["function"], of_kind(numbered(each["payload"], number), kind)) for each in payloads]
        *earlier, body = body_of_path(path, size)
        return [(BASELINE_FUNCTION, numbered(proxy_event(body, REQUEST_IDS[len(earlier)]), number))]

    def prepare(self, design: str, path: str, number: int) -> None:
        """Make the deliveries that come before the measured one, and set the fault of the path."""
        self.account.refuses_records = False
        if path == IDLE:
            # Healing is idle only as long as no delivery waits for it.
            empty_tables()
        if path == "duplicate" and design == OURS:
            for function, payload in self.steps(design, "paid", SMALL, number):
                self.warm(design, function).invoke(payload)
        self.account.refuses_records = path in FAILING
        self.account.take_calls()

    def container(self, design: str, function: str) -> Container:
        """Return a new process of a function, to be entered."""
        environment = dict(self.account.environment)
        if design == BASELINE:
            own = {
                "RECORD_TABLE": engine.RECORD_TABLE,
                "ERROR_LOG_TABLE": engine.ERROR_TABLE,
                "PROCESS_PAID_FUNCTION": "payment3-process-paid-wallet-order-internal-test",
                "EMAIL_FROM": engine.PARAMETERS["EmailFrom"],
                "EMAIL_TO": engine.PARAMETERS["EmailTo"],
                "AWS_LAMBDA_LOG_FORMAT": "Text",
            }
            return Container(self.baseline, BASELINE_HANDLER, environment | own, self.runtime_client)
        properties, logs = FUNCTIONS[function], PRODUCTION.lambda_logs
        own = {"AWS_LAMBDA_LOG_FORMAT": logs["LogFormat"], "AWS_LAMBDA_LOG_LEVEL": logs["ApplicationLogLevel"]}
        variables = engine.resolved(
            properties.get("Environment", {}).get("Variables", {}), SentryDsn=self.account.environment["SENTRY_DSN"]
        )
        del environment["SENTRY_DSN"]
        return Container(
            self.ours,
            properties["Handler"],
            environment | own | {name: str(value) for name, value in variables.items()},
            self.runtime_client,
            timeout_of(function),
        )

    def warm(self, design: str, function: str) -> Container:
        """Return the process of a function that all warm calls share."""
        if (design, function) not in self._warm:
            self._warm[design, function] = self._exits.enter_context(self.container(design, function))
        return self._warm[design, function]

    def run(self, design: str, path: str, size: int, number: int) -> list[tuple[str, Invocation, dict[str, int]]]:
        """Make a delivery's calls in warm processes; return each with the calls to AWS that it made."""
        self.prepare(design, path, number)
        results = []
        for function, payload in self.steps(design, path, size, number):
            invocation = self.warm(design, function).invoke(payload)
            results.append((function, invocation, dict(self.account.take_calls())))
        return results

    def close(self) -> None:
        self._exits.close()


@contextmanager
def preparing(ours: Path | None) -> Iterator[Bench]:
    """Build what is measured and serve the account, for the duration of a `with` block.

    `ours` is a folder with the functions' zip, as `make build` leaves it; without one they are built here.
    """
    with serving_account() as account:
        folder = artefact.unpack(ours) if ours else artefact.build_ours()
        bench = Bench(account, folder, artefact.build_baseline(), artefact.build_runtime_client())
        try:
            yield bench
        finally:
            bench.close()


def is_expected(path: str, function: str, invocation: Invocation) -> bool:
    """Return whether a call ended as the path says; a call that a busy machine made too slow did not."""
    if function == BASELINE_FUNCTION:
        answer: Any = invocation.answer
        return bool(answer.get("statusCode") == (500 if path in FAILS_IN else 200))
    return invocation.is_error == (FAILS_IN.get(path) == function)
