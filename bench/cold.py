"""Cold starts: the CPU of a new process until its first event, and of its first call."""

from collections import defaultdict
from statistics import median
from typing import Any

from bench import artefact
from bench.designs import Bench, is_expected
from bench.paths import BASELINE, BASELINE_FUNCTION, OURS, SMALL
from bench.runtime import Invocation
from bench.spread import middle_half
from tests.sources import FUNCTIONS
from tests.template.test_names import slowness

PATHS = ("paid", "declined", "refused", "failing")
SAMPLES = 5
# Of the functions that are on none of the paths.
OTHER_SAMPLES = 3


def measure(bench: Bench) -> dict[str, Any]:
    """Return milliseconds of CPU by function and by path, and the sizes of the functions' folders."""
    inits: dict[tuple[str, str], list[float]] = defaultdict(list)
    calls: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    slownesses = []
    for sample in range(SAMPLES):
        slownesses.append(slowness())
        number = 1_000 * (sample + 1)
        for position, path in enumerate(PATHS):
            for design in (OURS, BASELINE):
                bench.prepare(design, path, number + position)
                steps = bench.steps(design, path, SMALL, number + position)
                starts = [(function, *_start(bench, design, function, payload)) for function, payload in steps]
                for function, init_cpu_ms, invocation in starts:
                    inits[design, function].append(init_cpu_ms)
                    if is_expected(path, function, invocation):
                        calls[design, path, function].append(invocation.cpu_ms)
                if all(is_expected(path, function, invocation) for function, _, invocation in starts):
                    sums[path, design].append(sum(init + invocation.cpu_ms for _, init, invocation in starts))
    for function in FUNCTIONS:
        for _ in range(OTHER_SAMPLES if (OURS, function) not in inits else 0):
            with bench.container(OURS, function) as container:
                inits[OURS, function].append(container.init_cpu_ms)

    init = {key: median(values) for key, values in inits.items()}
    call = {key: median(values) for key, values in calls.items()}

    return {
        "functions": {
            name: {
                "init_cpu_ms": init[OURS, name],
                "first_call_cpu_ms": {path: call[OURS, path, name] for path in PATHS if (OURS, path, name) in call},
                "mebibytes": artefact.size_of(artefact.code_of(bench.ours, name)),
            }
            for name in FUNCTIONS
        },
        "baseline": {
            "init_cpu_ms": init[BASELINE, BASELINE_FUNCTION],
            "first_call_cpu_ms": {path: call[BASELINE, path, BASELINE_FUNCTION] for path in PATHS},
            "mebibytes": artefact.size_of(bench.baseline),
        },
        "paths": {path: {design: median(sums[path, design]) for design in (OURS, BASELINE)} for path in PATHS},
        "path_quartiles": {
            path: {design: middle_half(sums[path, design]) for design in (OURS, BASELINE)} for path in PATHS
        },
        # Other work on the machine slows a process down, and the yardstick with it.
        "slowness": max(1, median(slownesses)),
    }


def _start(bench: Bench, design: str, function: str, payload: str) -> tuple[float, Invocation]:
    """Return the CPU of a new process until its first event, and its first call."""
    with bench.container(design, function) as container:
        return container.init_cpu_ms, container.invoke(payload)
