"""Measures this design against one Lambda that does everything; `make bench ARGS="cold warm log load bill soak"`."""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import bill, cold, load, log, report, soak, warm
from bench.designs import preparing
from local.stack import ROOT

RESULTS = ROOT / "bench/results/latest.json"
QUICK = ["cold", "warm", "log", "load", "bill"]
PARTS = [*QUICK, "soak"]
IN_CONTAINERS = {"cold": cold, "warm": warm, "log": log}


def main() -> None:
    options = _options()
    file: Path = options.results
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    parts = options.parts or QUICK
    results["machine"] = {
        "cores": os.cpu_count(),
        "kind": f"{platform.machine()}, Python {platform.python_version()}",
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
    }
    if chosen := [part for part in parts if part in IN_CONTAINERS]:
        with preparing(options.artefact) as bench:
            for part in chosen:
                results[part] = _timed(part, IN_CONTAINERS[part].measure, bench)
    if "load" in parts:
        results["load"] = _timed("load", load.measure, options.fill_seconds)
    if "bill" in parts:
        _require(results, ["cold", "warm", "log"])
        results["bill"] = bill.measure(results)
    if "soak" in parts:
        results["soak"] = _timed("soak", soak.measure, options.minutes)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(report.table(results))
    if options.write:
        report.write(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all but the soak by default")
    parser.add_argument("--artefact", type=Path, help="the folder of our functions, such as .aws-sam/build")
    parser.add_argument("--minutes", type=float, default=10, help="how long the soak lasts")
    parser.add_argument(
        "--fill-seconds",
        type=float,
        default=15,
        help="how long the load fills the table, and then an order; 240 reach a million records",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the numbers are kept as JSON")
    parser.add_argument(
        "--no-write", dest="write", action="store_false", help="leave docs/benchmarks.md and its pictures alone"
    )
    return parser.parse_args()


def _timed(part: str, measure: Any, *arguments: Any) -> Any:
    started = time.monotonic()
    result = measure(*arguments)
    print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)
    return result


def _require(results: dict[str, Any], parts: Iterable[str]) -> None:
    if missing := [part for part in parts if part not in results]:
        raise SystemExit(f"The bill needs the parts {', '.join(missing)} first")


if __name__ == "__main__":
    main()
