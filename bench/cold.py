"""Cold starts: the CPU of a new process until its first event, and of its first call."""

from collections import defaultdict
from statistics import median
from typing import Any

from bench import artefact
from bench.designs import Bench, is_expected
from bench.paths import BASELINE, BASELINE_FUNCTION, IDLE, OURS, PATHS, designs_of
from bench.spread import middle_half
from tests.sources import FUNCTIONS
from tests.template.test_names import slowness

MEASURED = ("paid", "declined", "refused", "failing", IDLE)
SAMPLES = 5


def measure(bench: Bench) -> dict[str, Any]:
    """Return milliseconds of CPU by function and by path, and the sizes of the functions' folders."""
    inits: dict[tuple[str, str], list[float]] = defaultdict(list)
    calls: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    slownesses = []
    for sample in range(SAMPLES):
        slownesses.append(slowness())
        number = 1_000 * (sample + 1)
        for position, path in enumerate(MEASURED):
            for design in designs_of(path):
                bench.prepare(design, path, number + position)
                steps = bench.steps(design, path, PATHS[path][0], number + position)
                expected: list[float] = []
                for function, payload in steps:
                    with bench.container(design, function) as container:
                        inits[design, function].append(container.init_cpu_ms)
                        invocation = container.invoke(payload)
                    if is_expected(path, function, invocation):
                        calls[design, path, function].append(invocation.cpu_ms)
                        expected.append(container.init_cpu_ms + invocation.cpu_ms)
                if len(expected) == len(steps):
                    sums[path, design].append(sum(expected))
        # Between the samples of the paths: a machine that is busy for a while slows all of them.
        for function in FUNCTIONS:
            if len(inits[OURS, function]) <= sample:
                with bench.container(OURS, function) as container:
                    inits[OURS, function].append(container.init_cpu_ms)

    def times_of(design: str, function: str) -> dict[str, Any]:
        values = inits[design, function]
        first_calls = {path: calls[design, path, function] for path in MEASURED}
        return {
            "init_cpu_ms": median(values),
            "init_quartiles": middle_half(values),
            "first_call_cpu_ms": {path: median(found) for path, found in first_calls.items() if found},
        }

    # All functions share their code.
    megabytes = artefact.size_of(bench.ours)
    return {
        "functions": {name: times_of(OURS, name) | {"megabytes": megabytes} for name in FUNCTIONS},
        "baseline": times_of(BASELINE, BASELINE_FUNCTION) | {"megabytes": artefact.size_of(bench.baseline)},
        "paths": {path: {design: median(sums[path, design]) for design in designs_of(path)} for path in MEASURED},
        "path_quartiles": {
            path: {design: middle_half(sums[path, design]) for design in designs_of(path)} for path in MEASURED
        },
        # Other work on the machine slows a process down, and the yardstick with it.
        "slowness": max(1, median(slownesses)),
    }
