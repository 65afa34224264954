"""A soak of the local stack: genuine callbacks among faults, duplicates and garbage; none is lost or twice."""

import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from threading import Event, Lock
from typing import Any

from bench.spread import percentile_95
from callbacks import times
from callbacks.queues import Lane
from tests.e2e.conftest import PARAMETERS, Answer, Local, running, without_permissions

SENDERS = 4
DUPLICATES, GARBAGE, FAULTS = 0.20, 0.05, 0.02
FAULT_SECONDS = 0.5
FAULTY = ("ValidateCallback", "SaveCallbackRecord", "InvokeProcessPaid")
HEAL_EVERY_SECONDS = 30
# After the last callback; healing itself finds a lost dispatch after a minute.
DRAIN_SECONDS = 300
GARBAGE_BODIES = [
    "",
    "{",
    "[]",
    "null",
    '{"orderId": 1}',
    "\x00\xff",
    '{"orderId": "1", "success": "yes"}',
    "x" * 9_000,
]


@dataclass
class Traffic:
    """What was sent, and how it was answered."""

    bodies: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    unanswered: int = 0
    lock: Lock = field(default_factory=Lock)

    def choose(self) -> tuple[str, str]:
        """Return the kind of the next delivery and its body."""
        draw = random.random()  # noqa: S311
        with self.lock:
            if draw < GARBAGE:
                return "garbage", random.choice(GARBAGE_BODIES)  # noqa: S311
            if draw < GARBAGE + DUPLICATES and self.bodies:
                return "duplicate", random.choice(self.bodies)  # noqa: S311
            number = uuid.uuid4().hex[:12]
            body = json.dumps(
                {"orderId": number, "paymentId": f"pay_{number}", "userId": "u1", "success": True, "amount": 2339.0}
            )
            self.bodies.append(body)
            return "genuine", body

    def note(self, kind: str, answer: Answer | None, seconds: float) -> None:
        with self.lock:
            self.seconds.append(seconds)
            self.unanswered += answer is None
            if answer:
                self.answers[f"{kind} {answer.status}"] += 1

    @property
    def faulted_share(self) -> float:
        with self.lock:
            return self.answers["genuine 500"] / max(1, len(self.bodies))


def measure(minutes: float) -> dict[str, Any]:
    """Send for so many minutes, let healing finish, and count."""
    traffic, is_over = Traffic(), Event()
    limits = {"ThrottleRate": "100000", "ThrottleBurst": "100000"}
    with running(Local, PARAMETERS | limits) as local:
        with ThreadPoolExecutor(SENDERS + 2) as pool:
            jobs = [pool.submit(_send, local, traffic, is_over) for _ in range(SENDERS)]
            jobs += [pool.submit(_inject, local, traffic, is_over), pool.submit(_heal_often, local, is_over)]
            is_over.wait(minutes * 60)
            is_over.set()
            for job in jobs:
                job.result()
        drained = _drain(local)
        local.unreported.update(local.failed())
        return _count(local, traffic) | {"minutes": minutes, "drain_seconds": drained}


def _send(local: Local, traffic: Traffic, is_over: Event) -> None:
    while not is_over.is_set():
        kind, body = traffic.choose()
        started, answer = time.monotonic(), None
        try:
            answer = local.post(body)
        except (OSError, ValueError, AssertionError) as error:
            print(f"unanswered: {type(error).__name__} {error}"[:200], flush=True)
        traffic.note(kind, answer, time.monotonic() - started)


def _inject(local: Local, traffic: Traffic, is_over: Event) -> None:
    """Break a function for a moment whenever fewer callbacks than FAULTS have met a fault."""
    while not is_over.wait(0.2):
        if traffic.faulted_share < FAULTS:
            function = random.choice(FAULTY)  # noqa: S311
            break_it = random.choice([_throttled, without_permissions])  # noqa: S311
            if function == "ValidateCallback":
                break_it = _throttled
            with break_it(local, function):
                is_over.wait(FAULT_SECONDS)


@contextmanager
def _throttled(local: Local, function: str) -> Iterator[None]:
    client, name = local.stack.client("lambda"), f"payment3-{function}-local"
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    try:
        yield
    finally:
        client.delete_function_concurrency(FunctionName=name)


def _heal_often(local: Local, is_over: Event) -> None:
    while not is_over.wait(HEAL_EVERY_SECONDS):
        _heal(local)


def _heal(local: Local) -> None:
    """Make all failures due, and run the healing workflow as the schedule does."""
    dynamodb = local.stack.client("dynamodb")
    for error in _open_failures(local):
        try:
            dynamodb.update_item(
                TableName=local.stack.outputs["ErrorLogTableName"],
                Key={"requestId": {"S": error["requestId"]}},
                UpdateExpression="SET queuedAt = :now",
                ConditionExpression="attribute_exists(queue) AND #status = :open",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={":now": {"S": times.iso(times.now())}, ":open": {"S": "open"}},
            )
        except dynamodb.exceptions.ConditionalCheckFailedException:
            continue
    client = local.stack.client("stepfunctions")
    run = client.start_execution(stateMachineArn=local.stack.outputs["HealingStateMachineArn"], input="{}")
    while client.describe_execution(executionArn=run["executionArn"])["status"] == "RUNNING":
        time.sleep(0.2)


def _open_failures(local: Local) -> list[dict[str, Any]]:
    """Return the failures that healing will redrive."""
    lanes = (f"#{Lane.HEALING}", f"#{Lane.UNCONFIRMED}")
    return [error for error in local.server.views.errors() if error.get("queue", "").endswith(lanes)]


def _drain(local: Local) -> float:
    """Heal until no failure is open and every record is confirmed; return the seconds."""
    started = time.monotonic()
    while time.monotonic() - started < DRAIN_SECONDS:
        _heal(local)
        waiting = [record for record in local.server.views.records() if "undispatchedSince" in record]
        if not _open_failures(local) and not waiting:
            break
        time.sleep(2)
    return time.monotonic() - started


def _count(local: Local, traffic: Traffic) -> dict[str, Any]:
    dispatched = Counter(local.payloads_of(""))
    recorded = {record["body"] for record in local.server.views.records()}
    bodies = set(traffic.bodies)
    return {
        "sent": sum(traffic.answers.values()) + traffic.unanswered,
        "answered": sum(traffic.answers.values()),
        "answers": dict(sorted(traffic.answers.items())),
        "payments": len(bodies),
        "recorded": len(bodies & recorded),
        "dispatched": len(bodies & set(dispatched)),
        "lost": len(bodies - set(dispatched)),
        "twice": sum(dispatched[body] > 1 for body in bodies),
        "foreign": len(set(dispatched) - bodies),
        "failed_executions": len(local.failed()),
        "median": median(traffic.seconds),
        "p95": percentile_95(traffic.seconds),
    }
