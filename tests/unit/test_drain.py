"""Healing drains an outage within 90 minutes, and neither it nor a flood delays a new failure by more than 10."""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import ceil

import pytest

from callbacks.queues import Lane
from local.stack import ROOT
from tests.sources import TEMPLATE
from tests.unit.kit import Load, Task

PAGE = (ROOT / "docs/capacity.md").read_text()
MINUTE = 60.0
OUTAGE = 180_000  # An hour at 50 callbacks a second.
THROTTLE = 50  # Requests a second that the API accepts.

# Twice what the emulator measures for a redrive on a machine with two cores, and for reading a page and starting it.
REDRIVE_SECONDS = 1.5
PAGE_SECONDS = 3.0


def default(parameter: str) -> int:
    value: int = TEMPLATE["Parameters"][parameter]["Default"]
    return value


@dataclass
class Waiting:
    """The failures of one lane: those due in the future, and the due ones, oldest first."""

    future: list[tuple[float, float, int]] = field(default_factory=list)
    due: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, due_at: float, failed_at: float, attempts: int = 0) -> None:
        heapq.heappush(self.future, (due_at, failed_at, attempts))

    def take(self, now: float, number: int, *, is_newest_first: bool) -> Iterator[tuple[float, int]]:
        """Take so many due failures; yield when each failed, and its attempts."""
        while self.future and self.future[0][0] <= now:
            self.due.append(heapq.heappop(self.future)[1:])
        for _ in range(min(number, len(self.due))):
            yield self.due.pop() if is_newest_first else self.due.popleft()


@dataclass
class Healing:
    """Scheduled runs in simulated time, with the shipped pace, shares, delays and attempts."""

    pace: Task
    run_seconds: float
    now: float = 0.0
    lanes: dict[Lane, Waiting] = field(default_factory=lambda: {lane: Waiting() for lane in Lane})
    asked: int = 0
    longest_wait: float = 0.0

    def fail(self, lane: Lane, failed_at: float) -> None:
        self.lanes[lane].add(failed_at + default("RedriveDelayMinutes") * MINUTE, failed_at)

    def run_until(self, end: float, arrive: Callable[["Healing", float, float], None]) -> None:
        """Run on schedule; `arrive` adds what fails between two moments."""
        while self.now < end:
            started, concurrency, statuses = self.now, 0, list[str]()
            while self.now < started + self.run_seconds:
                concurrency = self.pace.next_concurrency(concurrency, statuses)
                statuses = self._redrive_page(concurrency)
                before = self.now
                self.now += PAGE_SECONDS + ceil(len(statuses) / concurrency) * REDRIVE_SECONDS
                arrive(self, before, self.now)
                if not statuses:
                    break
            before, self.now = self.now, started + default("HealingMinutes") * MINUTE
            arrive(self, before, self.now)

    def _redrive_page(self, concurrency: int) -> list[str]:
        size = self.pace.page_size(concurrency)
        newest, unconfirmed = self.pace.shares(size)
        statuses: list[str] = []
        for failed_at, attempts in self.lanes[Lane.UNCONFIRMED].take(self.now, unconfirmed, is_newest_first=True):
            statuses.append("unconfirmed")
            if attempts + 1 < default("UnconfirmedAttempts"):
                delay = default("RedriveDelayMinutes") * 2 ** (attempts + 1) * MINUTE
                self.lanes[Lane.UNCONFIRMED].add(self.now + delay, failed_at, attempts + 1)
        self.asked += len(statuses)
        for is_newest_first in (True, False):
            number = newest if is_newest_first else size - len(statuses)
            for failed_at, _ in self.lanes[Lane.HEALING].take(self.now, number, is_newest_first=is_newest_first):
                statuses.append("resolved")
                self.longest_wait = max(self.longest_wait, self.now - failed_at if failed_at >= 0 else 0)
        return statuses


@pytest.fixture
def healing(load: Load) -> Healing:
    settings = {"HEALING_MINUTES": "HealingMinutes", "HEALING_CONCURRENCY": "HealingConcurrency"}
    find_failures = load("find_failures", **{name: str(default(value)) for name, value in settings.items()})
    return Healing(find_failures.pace, find_failures.RUN_TIME.total_seconds())


def new_failures(per_second: float, lane: Lane = Lane.HEALING) -> Callable[[Healing, float, float], None]:
    def arrive(healing: Healing, begin: float, end: float) -> None:
        for number in range(ceil(begin * per_second), ceil(end * per_second)):
            healing.fail(lane, number / per_second)

    return arrive


def test_an_outages_failures_are_drained_in_90_minutes(healing: Healing) -> None:
    # All are due when the outage ends; their wait does not count as that of new ones.
    for _ in range(OUTAGE):
        healing.lanes[Lane.HEALING].add(0, -1)
    minutes = 0
    while any(failed_at < 0 for failed_at, _ in healing.lanes[Lane.HEALING].due) or not minutes:
        minutes += default("HealingMinutes")
        healing.run_until(minutes * MINUTE, new_failures(1))

    assert minutes <= 90
    assert healing.longest_wait <= 10 * MINUTE
    assert f"| **drained after** | **{minutes} minutes** |" in PAGE
    wait = ceil(healing.longest_wait / MINUTE)
    assert f"| **a failure that happens meanwhile is tried after at most** | **{wait} minutes** |" in PAGE


def test_a_flood_from_outside_delays_no_other_failure(healing: Healing) -> None:
    flood, genuine = new_failures(THROTTLE, Lane.UNCONFIRMED), new_failures(1)

    def arrive(healing: Healing, begin: float, end: float) -> None:
        flood(healing, begin, end)
        genuine(healing, begin, end)

    healing.run_until(8 * 60 * MINUTE, arrive)

    assert healing.longest_wait <= 10 * MINUTE
    # What healing asks the bank, beside the first time that each callback is checked.
    per_second = healing.asked / healing.now
    assert f"| inquiries at the bank by healing, in all | {ceil(per_second)} a second |" in PAGE
    assert f"| a genuine failure is tried after at most | {ceil(healing.longest_wait / MINUTE)} minutes |" in PAGE
