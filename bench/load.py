"""Load on the local stack, how the cost of a callback grows, and how long the stack takes to start.

The emulator runs each function as a process on this machine, so its numbers say nothing about AWS beyond their shape.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from bench import artefact
from bench.designs import BASELINE_HANDLER
from bench.paths import BASELINE, LARGE, MEDIUM, OURS, SMALL, body_of_path, numbered, proxy_event
from bench.spread import middle_half, percentile_95
from local import stack as local_stack
from local.__main__ import post
from local.server import Server, sentry_dsn, serving
from local.stack import CONCURRENCY, REGION, Stack, free_ports

LEVELS = (1, 4, 16, 32)
LEVEL_SECONDS = 4
PROBES = 7
RECORDS_OF_AN_ORDER = (10, 100, 1_000, 10_000)
TABLE_SIZES = (1_000, 10_000, 100_000, 1_000_000)
# The stage's own throttle must not be what is measured.
PARAMETERS = {"ThrottleRate": "100000", "ThrottleBurst": "100000"}
Send = Callable[[str], int]


def measure(fill_seconds: float) -> dict[str, Any]:
    """Measure; the table, and then an order, are each filled for so long at most. The results say how far."""
    with TemporaryDirectory(prefix="payment3-bench-") as builds, patch.object(local_stack, "BUILDS", Path(builds)):
        started = time.monotonic()
        with _running() as (stack, server), ThreadPoolExecutor(CONCURRENCY) as turns:
            first = time.monotonic() - started
            senders = {OURS: _ours(server), BASELINE: _baseline(stack, turns)}
            levels = [
                {"at_once": level} | {design: _load(send, level) for design, send in senders.items()}
                for level in LEVELS
            ]
            growth = _growth(stack, senders[OURS], fill_seconds)
        started = time.monotonic()
        with _running():
            again = time.monotonic() - started
    return {"levels": levels, "growth": growth, "start_seconds": {"first": first, "again": again}}


@contextmanager
def _running() -> Iterator[tuple[Stack, Server]]:
    aws_port, api_port = free_ports(2)
    quiet = list[str]().append
    with (
        Stack(aws_port, sentry_dsn(api_port), parameters=PARAMETERS, report=quiet) as stack,
        serving(stack, api_port, quiet) as server,
    ):
        yield stack, server


def _ours(server: Server) -> Send:
    return lambda body: post(server.url, body).status


def _baseline(stack: Stack, turns: Executor) -> Send:
    """Deploy the baseline to the same emulator, and return what invokes it, in the order of the calls.

    It is invoked directly, and `turns` limits how often at once, as the gateway limits ours.
    """
    client = stack.client("lambda")
    client.create_function(
        FunctionName="bench-baseline",
        Runtime="python3.12",
        Handler=BASELINE_HANDLER,
        Role=f"arn:aws:iam::{local_stack.ACCOUNT_ID}:role/bench",
        Code={"ZipFile": artefact.zip_of(artefact.build_baseline())},
        Timeout=30,
        Environment={
            "Variables": {
                "RECORD_TABLE": stack.outputs["RecordTableName"],
                "ERROR_LOG_TABLE": stack.outputs["ErrorLogTableName"],
                "PROCESS_PAID_FUNCTION": f"payment3-process-paid-wallet-order-internal-{local_stack.BRANCH}",
                "EMAIL_FROM": local_stack.EMAIL_FROM,
                "EMAIL_TO": local_stack.EMAIL_TO,
                "AWS_DEFAULT_REGION": REGION,
            }
        },
    )

    def invoke(event: str) -> int:
        answer = client.invoke(FunctionName="bench-baseline", Payload=event)
        return int(json.load(answer["Payload"])["statusCode"])

    def send(body: str) -> int:
        return turns.submit(invoke, proxy_event(body, uuid.uuid4().hex[:16])).result()

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        for status in pool.map(send, [_body(SMALL) for _ in range(2 * CONCURRENCY)]):
            assert status == 200, "the baseline does not work on the emulator"
    return send


def _body(size: int) -> str:
    """Return the body of a new payment of a new order."""
    (body,) = body_of_path("paid", size)
    return numbered(body, uuid.uuid4().int % 10**9)


def _load(send: Send, level: int) -> dict[str, float]:
    """Send callbacks for LEVEL_SECONDS, so many at once, and return answers a second and the seconds of an answer."""
    deadline = time.monotonic() + LEVEL_SECONDS

    def sender(_: int) -> list[float]:
        seconds = []
        while time.monotonic() < deadline:
            started = time.monotonic()
            status = send(_body(SMALL))
            assert status == 200, f"answered {status}"
            seconds.append(time.monotonic() - started)
        return seconds

    started = time.monotonic()
    with ThreadPoolExecutor(level) as pool:
        seconds = [second for each in pool.map(sender, range(level)) for second in each]
    elapsed = time.monotonic() - started
    return {"per_second": len(seconds) / elapsed, "median": median(seconds), "p95": percentile_95(seconds)}


def _growth(stack: Stack, send: Send, fill_seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Return the seconds of one callback by size of its body, records of its order, and size of the table."""

    def probe(make: Callable[[], str]) -> dict[str, Any]:
        seconds = []
        for _ in range(PROBES):
            started = time.monotonic()
            status = send(make())
            assert status == 200, f"answered {status}"
            seconds.append(time.monotonic() - started)
        return {"seconds": median(seconds), "quartiles": middle_half(seconds)}

    bodies = [{"bytes": size} | probe(partial(_body, size)) for size in (SMALL, MEDIUM, LARGE)]
    # Another payment of the order would be reported, so the same one is delivered again.
    body = _body(SMALL)
    send(body)
    return {
        "body": bodies,
        "table": list(_filling(stack, TABLE_SIZES, fill_seconds, lambda: probe(partial(_body, SMALL)))),
        "order": list(
            _filling(
                stack, RECORDS_OF_AN_ORDER, fill_seconds, lambda: probe(partial(str, body)), json.loads(body)["orderId"]
            )
        ),
    }


def _filling(
    stack: Stack, counts: Sequence[int], fill_seconds: float, probe: Callable[[], dict[str, Any]], order_id: str = ""
) -> Iterator[dict[str, Any]]:
    """Fill the record table, or an order; yield what a callback takes at each count, up to the last that is reached.

    The records of the callbacks themselves are not counted.
    """
    deadline, filled = time.monotonic() + fill_seconds, 0
    for count in counts:
        filled += _fill(stack, count - filled, deadline, order_id)
        yield {"records": filled} | probe()
        if filled < count:
            return


def _fill(stack: Stack, count: int, deadline: float, order_id: str = "") -> int:
    """Put so many records into the record table, or fewer at the deadline; return how many."""
    client, table = stack.client("dynamodb"), stack.outputs["RecordTableName"]
    filled = 0
    while filled < count and time.monotonic() < deadline:
        batch = [
            {
                "orderId": {"S": order_id or uuid.uuid4().hex[:12]},
                "deliveryId": {"S": f"2026-11-22T10:00:00.123Z#{uuid.uuid4().hex[:15]}"},
                "channel": {"S": "BankApp"},
            }
            for _ in range(min(25, count - filled))
        ]
        client.batch_write_item(RequestItems={table: [{"PutRequest": {"Item": item}} for item in batch]})
        filled += len(batch)
    return filled
