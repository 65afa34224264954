"""Warm calls: CPU, time on the wall clock and calls to AWS of each path."""

from collections import Counter, defaultdict
from statistics import median
from typing import Any

from bench.account import empty_tables
from bench.designs import Bench, is_expected
from bench.paths import BASELINE, OURS, SMALL

PATHS = ("paid", "duplicate", "declined", "refused", "failing")
IDLE = "idle"
ROUNDS = 60
# The first calls fill caches and open connections.
WARM_UP = 5


def measure(bench: Bench) -> dict[str, Any]:
    """Return, by path and design: medians by function, their sums, and the calls to AWS of one delivery."""
    samples: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    calls: dict[tuple[str, str, str], Counter[str]] = {}
    # Healing is idle only as long as no delivery waits for it.
    empty_tables()
    for paths, designs in (([IDLE], [OURS]), (PATHS, [OURS, BASELINE])):
        for number in range(ROUNDS + WARM_UP):
            for position, path in enumerate(paths):
                size, serial = 0 if path == IDLE else SMALL, 100_000 + 10 * number + position
                for design in designs:
                    for function, invocation, made in bench.run(design, path, size, serial):
                        if number >= WARM_UP and is_expected(path, function, invocation):
                            samples[path, design][function].append((invocation.cpu_ms, invocation.wall_ms))
                            calls[path, design, function] = Counter(made)
    return {
        path: {
            design: _summary(
                samples[path, design],
                {name: calls[path, design, name] for name in samples[path, design]},
            )
            for design in (OURS, BASELINE)
            if (path, design) in samples
        }
        for path in (*PATHS, IDLE)
    }


def _summary(samples: dict[str, list[tuple[float, float]]], calls: dict[str, Counter[str]]) -> dict[str, Any]:
    functions = {
        name: {
            "cpu_ms": median(cpu for cpu, _ in pairs),
            "wall_ms": median(wall for _, wall in pairs),
            "calls": dict(calls[name]),
        }
        for name, pairs in samples.items()
    }
    return {
        "cpu_ms": sum(each["cpu_ms"] for each in functions.values()),
        "wall_ms": sum(each["wall_ms"] for each in functions.values()),
        "calls": dict(sum(calls.values(), Counter())),
        "functions": functions,
    }
