"""Writes the numbers as one table, as the tables of docs/benchmarks.md, and as pictures beside it."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from bench.bill import at_a_million
from bench.paths import BASELINE, OURS, SMALL, case_of
from local.stack import ROOT
from tests.sources import CALLBACK_TASKS, CHECKS

PAGE = ROOT / "docs/benchmarks.md"
RESULTS = ROOT / "bench/results/latest.json"
BEFORE = ROOT / "bench/results/before.json"
MARKERS = re.compile(r"(?<=<!-- bench -->\n).*(?=<!-- /bench -->)", re.DOTALL)
# The fewest that dispatch exactly once: record, claim, invoke, finish.
ONCE_CALLS = 4
# What would cost nothing on the floor of the bill.
BESIDE = ("CloudWatch Logs", "alarms", "healing, idle")
COLOURS = {OURS: "#2f6f9f", BASELINE: "#c98b2b"}
Results = Mapping[str, Any]
Rows = Sequence[Sequence[str]]
type Bars = Sequence[tuple[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Goal:
    """A number, and the most that it should be."""

    label: str
    unit: str
    limit: float
    read: Callable[[Results], float]
    digits: int = 1

    def show(self, results: Results) -> str:
        value = self.value(results)
        return "-" if value is None else f"{value:,.{self.digits}f}{self.unit}"

    def value(self, results: Results) -> float | None:
        try:
            return self.read(results)
        except KeyError:
            return None

    def verdict(self, results: Results) -> str:
        value = self.value(results)
        return "-" if value is None else "yes" if value <= self.limit else "no"


def ratio(sums: Mapping[str, float]) -> float:
    return sums[OURS] / sums[BASELINE]


def slowest_start(results: Results) -> float:
    """Return the CPU before the first event of the callback workflow's slowest function, as on an idle core."""
    slowest = max(float(results["cold"]["functions"][name]["init_cpu_ms"]) for name in [*CALLBACK_TASKS, *CHECKS])
    return slowest / float(results["cold"].get("slowness", 1))


GOALS = [
    Goal("cold CPU of the paid path, times the one Lambda's", "x", 1.4, lambda r: ratio(r["cold"]["paths"]["paid"]), 2),
    Goal(
        "warm CPU of the paid path, times the one Lambda's",
        "x",
        1.2,
        lambda r: ratio({design: each["cpu_ms"] for design, each in r["warm"]["paid"].items()}),
        2,
    ),
    Goal("the slowest task's cold start, CPU", " ms", 280, slowest_start, 0),
    Goal(
        "log of a paid callback of 190 bytes, in production",
        " kB",
        10,
        lambda r: float(case_of(r, "paid", SMALL)["totals"]["production"]) / 1000,
        2,
    ),
    Goal(
        "production's bill at a million paid callbacks a month, times the one Lambda's",
        "x",
        1.5,
        lambda r: float(at_a_million(r["bill"]["volumes"])["ratio"]),
        2,
    ),
    Goal(
        "zip of the largest function",
        " MB",
        15,
        lambda r: max(float(each["megabytes"]["zip"]) for each in r["cold"]["functions"].values()),
    ),
    Goal("start of the local stack, first", " s", 20, lambda r: float(r["load"]["start_seconds"]["first"]), 0),
    Goal("start of the local stack, again", " s", 10, lambda r: float(r["load"]["start_seconds"]["again"]), 0),
]


def table(results: Results) -> str:
    """Return all goals, each with today's number, as aligned text."""
    rows = [["", "before", "today", "goal", "met"], *goal_rows(results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def goal_rows(results: Results) -> list[list[str]]:
    before = json.loads(BEFORE.read_text()) if BEFORE.exists() else {}
    return [
        [goal.label, goal.show(before), goal.show(results), f"at most {goal.limit:g}{goal.unit}", goal.verdict(results)]
        for goal in GOALS
    ]


def write(results: Results) -> None:
    """Write the tables between the page's markers, and the pictures."""
    parts = [
        markdown(["", "before", "today", "goal", "met"], goal_rows(results)),
        *(section(results) for name, section in SECTIONS.items() if name in results),
    ]
    text = PAGE.read_text()
    assert MARKERS.search(text), "docs/benchmarks.md has no markers"
    page = MARKERS.sub(lambda _: "\n" + "\n".join(parts) + "\n", text)
    PAGE.write_text(page)


def markdown(headings: Sequence[str], rows: Rows) -> str:
    """Return a table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [headings, rule, *rows])


def _spread(number: float, quartiles: Sequence[float], unit: str, digits: int) -> str:
    """Return a median with the middle half of its samples."""
    low, high = (f"{quartile:.{digits}f}" for quartile in quartiles)
    return f"{number:.{digits}f} {unit} ({low} to {high})"


def _measured(results: Results, part: str) -> str:
    """Return the sentence that says on which machine a part was measured, and when."""
    machine = results["machines"][part]
    return f"Measured on {machine['cores']} cores ({machine['kind']}) on {machine['at'][:10]}."


def _cold(results: Results) -> str:
    cold = results["cold"]
    both = {path: sums for path, sums in cold["paths"].items() if BASELINE in sums}
    _draw("cold", "CPU of cold starts on a path, ms", list(both.items()))
    paths = [
        [
            path,
            *(_spread(sums[design], cold["path_quartiles"][path][design], "ms", 0) for design in (OURS, BASELINE)),
            f"{ratio(sums):.2f}x",
        ]
        for path, sums in both.items()
    ]
    functions = [
        [
            f"`{name}`",
            _spread(each["init_cpu_ms"], each["init_quartiles"], "ms", 0),
            f"{max(calls):.0f} ms" if (calls := list(each["first_call_cpu_ms"].values())) else "-",
            f"{each['megabytes']['zip']:.1f} MB",
            f"{each['megabytes']['unpacked']:.1f} MB",
        ]
        for name, each in [*cold["functions"].items(), ("the one Lambda", cold["baseline"])]
    ]
    return "\n".join(
        [
            "### Cold starts\n",
            f"{_measured(results, 'cold')} Python took {cold['slowness']:.2f} times as long as on an idle core. "
            "Only the goal of the slowest cold start is corrected for that.\n",
            "![CPU of cold starts](bench-cold.svg)\n",
            markdown(["path, every function cold", "ours", "one Lambda", "ratio"], paths),
            markdown(["function", "until its first event", "slowest first call", "zip", "unpacked"], functions),
        ]
    )


def _warm(results: Results) -> str:
    warm = results["warm"]
    bars = [(path, {name: each["cpu_ms"] for name, each in designs.items()}) for path, designs in warm.items()]
    _draw("warm", "CPU of warm calls on a path, ms", bars)
    rows = [
        [
            f"{path}, {'ours' if design == OURS else 'one Lambda'}",
            _spread(each["cpu_ms"], each["cpu_quartiles"], "ms", 1),
            _spread(each["wall_ms"], each["wall_quartiles"], "ms", 1),
            ", ".join(f"{count} {kind}" for kind, count in sorted(each["calls"].items())) or "none",
        ]
        for path, designs in warm.items()
        for design, each in designs.items()
    ]
    headings = ["path", "CPU", "wall, against the local account", "calls"]
    return "\n".join(
        [
            "### Warm calls\n",
            f"{_measured(results, 'warm')}\n",
            "![CPU of warm calls](bench-warm.svg)\n",
            markdown(headings, rows),
            markdown(["a paid callback", "ours", "one Lambda"], floor_of_warm_cpu(warm)),
        ]
    )


def floor_of_warm_cpu(warm: Mapping[str, Any]) -> list[list[str]]:
    """Return where the CPU of a paid callback goes, and the least that calls which dispatch exactly once would take.

    ValidateCallback calls nothing, so its CPU is that of an invocation; calls take the rest, each the same.
    """
    paid = warm["paid"]
    invocation = float(paid[OURS]["functions"]["ValidateCallback"]["cpu_ms"])
    functions = {design: len(each["functions"]) for design, each in paid.items()}
    calls = {design: sum(each["calls"].values()) for design, each in paid.items()}
    of_call = {
        design: (each["cpu_ms"] - functions[design] * invocation) / calls[design] for design, each in paid.items()
    }

    def cpu_and_ratio(cpu: float) -> str:
        return f"{cpu:.1f} ms, {cpu / paid[BASELINE]['cpu_ms']:.2f}x"

    def row(label: str, values: Mapping[str, float], unit: str = "") -> list[str]:
        return [label, *(f"{values[design]:.{2 if unit else 0}f}{unit}" for design in (OURS, BASELINE))]

    return [
        row("functions", functions),
        row("calls to AWS", calls),
        row("CPU of an invocation, without its calls", dict.fromkeys(functions, invocation), " ms"),
        row("CPU of a call to AWS", of_call, " ms"),
        ["CPU of all", *(cpu_and_ratio(paid[design]["cpu_ms"]) for design in (OURS, BASELINE))],
        *(
            [
                f"the floor: {ONCE_CALLS} calls, functions: {count}",
                cpu_and_ratio(count * invocation + ONCE_CALLS * of_call[OURS]),
                "-",
            ]
            for count in (functions[OURS], 1)
        ),
    ]


def _log(results: Results) -> str:
    cases = results["log"]["cases"]
    bars = [
        (f"{case['path']}, {case['size']:,} B", {OURS: case["totals"]["production"], BASELINE: case["baseline"]})
        for case in cases
    ]
    _draw("log", "Bytes logged for one callback in production, as billed", bars)
    rows = [
        [
            f"{case['path']}, {case['size']:,} B",
            f"{case['events']}",
            f"{case['history']:,}",
            f"{case['history_without_data']:,}",
            f"{case['tasks']:,}",
            f"{case['api']:,}",
            f"{case['totals']['production']:,}",
            f"{case['baseline']:,}",
        ]
        for case in cases
    ]
    headings = [
        "callback",
        "events",
        "history, with data",
        "history, without",
        "functions",
        "API",
        "in production",
        "one Lambda",
    ]
    return "\n".join(
        [
            "### Log bytes\n",
            f"{_measured(results, 'log')}\n",
            "![Bytes logged](bench-log.svg)\n",
            markdown(headings, rows),
        ]
    )


def _load(results: Results) -> str:
    load = results["load"]
    levels = [
        [
            f"{level['at_once']}",
            *(
                cell
                for design in (OURS, BASELINE)
                for cell in (
                    f"{level[design]['per_second']:.1f}",
                    f"{level[design]['median']:.2f} s",
                    f"{level[design]['p95']:.2f} s",
                )
            ),
        ]
        for level in load["levels"]
    ]
    growth = [
        [label.format(each[count]), _spread(each["seconds"], each["quartiles"], "s", 3)]
        for kind, count, label in (
            ("body", "bytes", "body of {:,} bytes"),
            ("order", "records", "duplicate, at least {:,} records of its order"),
            ("table", "records", "at least {:,} records in the table"),
        )
        for each in load["growth"][kind]
    ]
    return "\n".join(
        [
            "### Load on the local stack\n",
            f"{_measured(results, 'load')} The one Lambda is invoked directly, without the gateway.\n",
            markdown(
                ["at once", "ours, a second", "median", "p95", "one Lambda, a second", "median", "p95"],
                levels,
            ),
            markdown(["one callback", "median"], growth),
        ]
    )


def _bill(results: Results) -> str:
    volumes = results["bill"]["volumes"]
    _draw(
        "bill",
        "Dollars for a million paid callbacks, in production",
        [(f"{volume['callbacks']:,} a month", volume["total"]) for volume in volumes],
    )
    columns = [volume["per_million"][design] for volume in volumes for design in (OURS, BASELINE)]
    names = dict.fromkeys(name for column in columns for name, dollars in column.items() if dollars)
    rows = [[name, *(f"{column[name]:,.2f}" if column.get(name) else "-" for column in columns)] for name in names]
    rows.append(["**total**", *(f"{sum(column.values()):,.2f}" for column in columns)])
    ratios = [cell for volume in volumes for cell in (f"{volume['ratio']:.2f}x", "1x")]
    rows.append(["ratio", *ratios])
    headings = ["in production, dollars a million"]
    for volume in volumes:
        headings += [f"{volume['callbacks']:,} a month, ours", "one Lambda"]
    changes = [[f"`{setting}`", f"{dollars:+.2f}"] for setting, dollars in results["bill"]["settings"].items()]
    return "\n".join(
        [
            "### The bill\n",
            _left_out(results["bill"]["storage"]),
            "![The bill](bench-bill.svg)\n",
            markdown(headings, rows),
            markdown(["production, but", "dollars a million, at 1,000,000 a month"], changes),
            markdown(
                ["at 1,000,000 a month", "dollars a million", "times the one Lambda's bill"], floor_of_bill(results)
            ),
        ]
    )


def _left_out(storage: Mapping[str, float]) -> str:
    return (
        "Left out are free tiers, data transfer, failures, duplicates, declined callbacks, the archive of the logs and "
        "storage. Storage and its backups grow every month: a paid callback of 190 bytes leaves a record and a "
        f"payment, together {storage['bytes']:,} bytes. So each million adds {storage['bytes'] / 1000:.2f} GB, which "
        f"costs {storage['dollars']:.2f} dollars in each month that follows. The one Lambda leaves a record alone.\n"
    )


def floor_of_bill(results: Results) -> list[list[str]]:
    """Return production's bill as multiples of the one Lambda's whole bill, first without logs, alarms and healing."""
    million = at_a_million(results["bill"]["volumes"])
    items, whole = million["per_million"][OURS], million["total"][BASELINE]
    floor = {name: dollars for name, dollars in items.items() if name not in BESIDE and dollars}

    def row(label: str, dollars: float) -> list[str]:
        return [label, f"{dollars:,.2f}", f"{dollars / whole:.2f}x"]

    return [
        *(row(*item) for item in floor.items()),
        row("**the floor: all of these**", sum(floor.values())),
        *(row(name, items[name]) for name in BESIDE if items.get(name)),
        row("the bill", million["total"][OURS]),
    ]


def _soak(results: Results) -> str:
    soak = results["soak"]
    rows = [
        [label, f"{soak[name]:,}"]
        for label, name in (
            ("deliveries sent", "sent"),
            ("answered", "answered"),
            ("payments", "payments"),
            ("of them recorded", "recorded"),
            ("dispatched", "dispatched"),
            ("lost", "lost"),
            ("dispatched twice", "twice"),
            ("dispatched that are no payment", "foreign"),
        )
    ]
    rows += [[f"answers: {kind}", f"{count:,}"] for kind, count in soak["answers"].items()]
    rows += [["median answer", f"{soak['median']:.2f} s"], ["p95", f"{soak['p95']:.2f} s"]]
    headings = [f"{soak['minutes']:g} minutes", ""]
    return "\n".join(["### The soak\n", f"{_measured(results, 'soak')}\n", markdown(headings, rows)])


SECTIONS = {"cold": _cold, "warm": _warm, "log": _log, "load": _load, "bill": _bill, "soak": _soak}


def _draw(name: str, title: str, bars: Bars) -> None:
    (PAGE.parent / f"bench-{name}.svg").write_text(drawing(title, bars))


def drawing(title: str, bars: Bars) -> str:
    """Return an SVG picture of horizontal bars, one for each design in each group."""
    left, width, thickness, gap, top = 190, 420, 14, 10, 56
    longest = max(value for _, values in bars for value in values.values())
    parts, y = [], top
    for label, values in bars:
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(label)}</text>')
        for design, value in values.items():
            length = max(1.0, value / longest * width)
            number = f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
            parts.append(
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{thickness}" fill="{COLOURS[design]}"/>'
                f'<text x="{left + length + 5:.1f}" y="{y + 12}">{number}</text>'
            )
            y += thickness + 2
        y += gap
    legend = "".join(
        f'<rect x="{left + 110 * place}" y="30" width="12" height="12" fill="{COLOURS[design]}"/>'
        f'<text x="{left + 110 * place + 17}" y="41">{text}</text>'
        for place, (design, text) in enumerate(((OURS, "ours"), (BASELINE, "one Lambda")))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{y}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n<text x="8" y="18" font-size="14">{escape(title)}</text>\n'
        f"{legend}\n" + "\n".join(parts) + "\n</svg>\n"
    )
