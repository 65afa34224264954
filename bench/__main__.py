"""Measures this design against one Lambda that does everything; `make bench ARGS="cold warm log load bill soak"`."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import bill, cold, load, log, report, soak, warm
from bench.designs import preparing

QUICK = ["cold", "warm", "log", "load", "bill"]
PARTS = [*QUICK, "soak"]
IN_CONTAINERS = {"cold": cold, "warm": warm, "log": log}


def main() -> None:
    options = _options()
    file: Path = options.results
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    parts = options.parts or QUICK

    def keep(part: str, measure: Callable[..., Any], *arguments: Any) -> None:
        """Measure a part and save it at once, so that a later part that fails loses nothing."""
        started = time.monotonic()
        results[part] = measure(*arguments)
        results.setdefault("machines", {})[part] = _machine()
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)

    file.parent.mkdir(exist_ok=True)
    if chosen := [part for part in parts if part in IN_CONTAINERS]:
        with preparing(options.artefact) as bench:
            for part in chosen:
                keep(part, IN_CONTAINERS[part].measure, bench)
    if "load" in parts:
        keep("load", load.measure, options.fill_seconds)
    if "bill" in parts:
        _require(results, ["cold", "warm", "log"])
        keep("bill", bill.measure, results)
    if "soak" in parts:
        keep("soak", soak.measure, options.minutes)
    print(report.table(results))
    if options.write:
        report.write(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all but the soak by default")
    parser.add_argument("--artefact", type=Path, help="a folder with functions.zip, such as .aws-sam/build")
    parser.add_argument("--minutes", type=float, default=10, help="how long the soak lasts")
    parser.add_argument(
        "--fill-seconds",
        type=float,
        default=15,
        help="how long the load fills the table, and then an order; 240 reach a million records",
    )
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="where the numbers are kept as JSON")
    parser.add_argument(
        "--no-write", dest="write", action="store_false", help="leave docs/benchmarks.md and its pictures alone"
    )
    return parser.parse_args()


def _machine() -> dict[str, Any]:
    """Return on what a part was measured, and when."""
    return {
        "cores": os.cpu_count(),
        "kind": f"{platform.machine()}, Python {platform.python_version()}",
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def _require(results: dict[str, Any], parts: Iterable[str]) -> None:
    if missing := [part for part in parts if part not in results]:
        raise SystemExit(f"The bill needs the parts {', '.join(missing)} first")


if __name__ == "__main__":
    main()
