"""Warm calls: CPU, time on the wall clock and calls to AWS of each path."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.designs import Bench, is_expected
from bench.paths import COUNTED, IDLE, PATHS, designs_of
from bench.runtime import Invocation
from bench.spread import middle_half

MEASURED = ("paid", "duplicate", "declined", "refused", "failing", COUNTED, IDLE)
ROUNDS = 60
# The first calls fill caches, open connections, and open the alert window of COUNTED.
WARM_UP = 5
# A delivery's calls of functions, each with the calls to AWS that it made.
Sample = Sequence[tuple[str, Invocation, dict[str, int]]]


def measure(bench: Bench) -> dict[str, Any]:
    """Return, by path and design, what a delivery takes, in all and by function, and its calls to AWS."""
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for number in range(ROUNDS + WARM_UP):
        for position, path in enumerate(MEASURED):
            for design in designs_of(path):
                sample = bench.run(design, path, PATHS[path][0], 100_000 + 10 * number + position)
                if number >= WARM_UP and all(is_expected(path, *each[:2]) for each in sample):
                    samples[path, design].append(sample)
    if missing := [key for path in MEASURED for design in designs_of(path) if (key := (path, design)) not in samples]:
        raise RuntimeError(f"No call ended as its path says: {missing}")
    return {path: {design: _summary(samples[path, design]) for design in designs_of(path)} for path in MEASURED}


def _summary(samples: Sequence[Sample]) -> dict[str, Any]:
    by_function = zip(*samples, strict=True)
    return {
        **_times([[invocation for _, invocation, _ in sample] for sample in samples]),
        "calls": dict(sum((Counter(made) for _, _, made in samples[-1]), Counter())),
        "functions": {
            calls[-1][0]: {**_times([[invocation] for _, invocation, _ in calls]), "calls": calls[-1][2]}
            for calls in by_function
        },
    }


def _times(samples: Sequence[Sequence[Invocation]]) -> dict[str, Any]:
    """Return the median and the quartiles of what the invocations of a sample take together."""
    cpu = [sum(invocation.cpu_ms for invocation in sample) for sample in samples]
    wall = [sum(invocation.wall_ms for invocation in sample) for sample in samples]
    return {
        "cpu_ms": median(cpu),
        "cpu_quartiles": middle_half(cpu),
        "wall_ms": median(wall),
        "wall_quartiles": middle_half(wall),
    }
