"""Results as a table in the terminal, as markdown, as JSON, as a comparison, and as the README's kernel table."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .case import ROOMS, KernelFacts, room_cases
from .runner import Result, registered_backends

HEADER = ("case", "backend", "thr", "median", "iqr", "rate", "of limit", "vs reference", "vs best peer")
BEGIN, END = "<!-- kernels:begin -->", "<!-- kernels:end -->"
_RIGHT = frozenset(HEADER[2:8])


def seconds(value: float) -> str:
    """ "4.71 ms" """
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
        if value * factor >= 1 or unit == "ns":
            return f"{significant(value * factor)} {unit}"
    raise AssertionError(value)


def significant(value: float) -> str:
    """Three significant digits without an exponent: 0.0123, 4.71, 47.1, 471, 4710."""
    digits = f"{value:.3g}"
    return digits if "e" not in digits else f"{value:.0f}" if value >= 1 else f"{value:.4f}"


def cells(result: Result) -> tuple[str, ...]:
    """The columns of one line."""
    case, timing = result.case, result.timing
    head = (case.full_name, result.backend, str(result.threads) if result.backend == "cpu" else "")
    if timing is None:
        word = {"failed": f"FAILED: {result.reason}", "unavailable": result.reason,
                "ok": f"ok: error is {significant(result.check_error or 0.0)} of the budget"}[result.status]
        return (*head, word)
    median = f"{seconds(timing.median)}"
    spread = f"{timing.spread:.0%}{'!' if timing.spread > 0.1 else ''}"
    if case.items:
        rate = f"{seconds(timing.median / case.items)} each"
    elif case.roof == "call":
        rate = f"+{seconds(max(0.0, timing.median - result.kernel.median))}" if result.kernel else ""
    elif result.limit and result.limit[1] == "flops":
        rate = f"{significant(case.flops / timing.median * 1e-9)} GF/s"
    else:
        rate = f"{significant(case.nbytes / timing.median * 1e-9)} GB/s"
    limit = "call" if case.roof == "call" else ""
    if result.limit and result.of_limit is not None:
        limit = f"{result.of_limit:.0%} {result.limit[1]}"
    reference = f"{significant(result.vs_reference)}x" if result.vs_reference else ""
    return (*head, median, spread, rate, limit, reference, _peer_cell(result))


def _peer_cell(result: Result) -> str:
    if result.best_peer:
        return f"{significant(result.best_peer[1])}x ({result.best_peer[0]})"
    if result.missing:
        absent = [name for name, why in result.missing.items() if why == "not installed"]
        if absent:
            return f"- ({', '.join(absent)} not installed)"
        return "- (all wrong)" if any(why.startswith("wrong: ") for why in result.missing.values()) else "- (left out)"
    return ""


class Table:
    """Prints lines as they come, in columns of fixed width."""

    def __init__(self, names: Iterable[str]) -> None:
        first = max([len(name) for name in names] + [len(HEADER[0])])
        self.widths = (first, 9, 3, 8, 5, 10, 16, 12, 12)

    def line(self, columns: Sequence[str]) -> str:
        """Columns padded to their widths; a short sequence is a name and a remark."""
        if len(columns) == 4:
            return "  ".join(f"{text:<{width}}" for text, width in zip(columns, self.widths, strict=False)).rstrip()
        return "  ".join(f"{text:>{width}}" if name in _RIGHT else f"{text:<{width}}"
                         for name, text, width in zip(HEADER, columns, self.widths, strict=True)).rstrip()

    def header(self) -> str:
        """The heading and a rule."""
        heading = self.line(HEADER)
        return f"{heading}\n{'-' * len(heading)}"


def head(machine: dict[str, Any], roofs: dict[str, dict[str, dict[str, float]]]) -> str:
    """What stands above the table: the machine, its limits, how to read the columns."""
    lines = [f"fastgd {machine['fastgd']} on {machine['cpu']}: {machine['cores']} cores, {machine['threads']} threads "
             f"usable, instruction set {machine['isa'] or 'none (the C core is not built)'}, "
             f"NumPy {machine['versions'].get('numpy', '?')}"]
    if "gpu" in machine:
        lines.append(f"GPU: {machine['gpu']}")
    for place, by_threads in roofs.items():
        for threads, rates in by_threads.items():
            who = "GPU" if place == "cuda" else f"{threads} thread{'s' if threads != '1' else ''}"
            read, copied, single, double = (f"{rate * 1e-9:.3g}" for rate in list(rates.values())[:4])
            lines.append(f"limits measured with {who}: read {read} GB/s, copy {copied} GB/s, multiply-adds {single} GF/s "
                         f"(float64 {double})")
        if "latency_s" in rates:  # one thread's, whatever the number of threads
            lines.append(f"a cache line at a random place: {seconds(rates['latency_s'])} alone, "
                         f"{seconds(1.0 / rates['random_lines_per_s'])} among many")
    return "\n".join(lines)


class Progress:
    """A progress bar on standard error where tqdm is installed and someone is watching; otherwise nothing."""

    def __init__(self, total: int) -> None:
        self.bar: Any = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self.bar = tqdm(total=total, file=sys.stderr, leave=False, dynamic_ncols=True, unit="case")

    def __enter__(self) -> tuple[Callable[[Any], None], Callable[[str, Any], None]]:
        return self._step, self._write

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def _step(self, case: Any) -> None:
        if self.bar is not None:
            self.bar.set_description(case.full_name)
            self.bar.update()

    def _write(self, text: str, out: Any) -> None:
        if self.bar is not None:
            self.bar.write(text, file=out)
        else:
            print(text, file=out, flush=True)


LEGEND = """\
of limit      share of what the machine can do: least time for these bytes (read, copy; from memory or cache) or this
              arithmetic (flops) at the measured rates, divided by the median; lines: least time for one cache line
              at a random place for each draw or update, many at a time
rate          bytes or flops that must be touched per second, or the time of each of the draws or updates of a call;
              tiny inputs: time above the bare kernel
vs reference  times faster than the NumPy reference      vs best peer  times faster than the fastest other library
iqr           interquartile range of the samples; "!" above 10 %: the machine was busy, do not trust the line"""


def markdown(results: Iterable[Result]) -> str:
    """The table as markdown."""
    lines = [f"| {' | '.join(HEADER)} |", "|" + "|".join("---:" if name in _RIGHT else "---" for name in HEADER) + "|"]
    for result in results:
        columns = cells(result)
        lines.append("| " + " | ".join((*columns, *[""] * (len(HEADER) - len(columns)))) + " |")
    return "\n".join(lines)


def peer_lines(result: Result) -> list[str]:
    """One line per peer, for `--peer` with a detailed look."""
    if result.timing is None:
        return []
    own = result.timing.median
    lines = [f"    {name:<16}{seconds(peer.median):>10}   fastgd is {significant(peer.median / own)}x as fast"
             for name, peer in sorted(result.peers.items(), key=lambda item: item[1].median)]
    return lines + [f"    {name:<16}{why}" for name, why in result.missing.items()]


def compare(old: dict[str, Any], new: dict[str, Any], fail_over: float | None) -> tuple[str, bool]:
    """The change of every line that both have, and whether one became slower by more than `fail_over`."""

    def key(line: dict[str, Any]) -> tuple[Any, ...]:
        return line["room"], line["case"], line["backend"], line["threads"]

    before = {key(line): line["median_s"] for line in old["results"] if line.get("median_s")}
    lines, failed = [], False
    for line in new["results"]:
        then, now = before.get(key(line)), line["median_s"]
        if not then or not now:
            continue
        change = now / then - 1.0
        slower = fail_over is not None and change > fail_over
        failed |= slower
        lines.append(f"{line['room']}/{line['case']} {line['backend']} {line['threads']}: {seconds(then)} -> "
                     f"{seconds(now)} ({change:+.0%}){'  SLOWER' if slower else ''}")
    return "\n".join(lines) or "no line in common", failed


# -------------------------------------------------------------------------------------------- the README's table


def readme_table(*paths: str | Path) -> str:
    """The README's table of kernels: their facts, and what was measured, taken from committed results.

    Parameters
    ----------
    *paths : str or Path
        JSON files written by `fastgd bench --json`. A case is looked up in each in turn.
    """
    reports = [json.loads(Path(path).read_text()) for path in paths]
    columns = ("operation", "computes", "cost", "dtypes", "backends", "deterministic", "error budget", "vs best peer",
               "of limit")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for facts in all_facts():
        ratio, limit = _measured(facts, reports)
        backends = ", ".join(registered_backends(getattr(importlib.import_module(f"fastgd.{facts.room}"), facts.name)))
        lines.append(f"| `{facts.room}.{facts.name}` | {facts.formula} | {facts.cost} | {facts.dtypes} | {backends} | "
                     f"{facts.deterministic} | {facts.budget} | {ratio} | {limit} |")
    for path, report in zip(paths, reports, strict=True):
        machine = report["machine"]
        lines += ["", f"Measured by `fastgd bench` on {machine['cpu']} ({machine['cores']} cores, {machine['isa']}), "
                      f"{machine['date'][:10]}: [{Path(path).name}](bench/results/{Path(path).name})."]
    return "\n".join(lines)


def all_facts() -> list[KernelFacts]:
    """The rows of all rooms."""
    return [facts for room in ROOMS for facts in getattr(room_cases(room), "KERNELS", [])]


def _measured(facts: KernelFacts, reports: Sequence[dict[str, Any]]) -> tuple[str, str]:
    for report in reports:
        lines = [line for line in report["results"]
                 if (line["room"], line["case"]) == (facts.room, facts.case) and line["median_s"]]
        if lines:
            line = max(lines, key=lambda line: line["threads"])
            peers = {name: peer["ratio"] for name, peer in line["peers"].items() if peer["ratio"]}
            best = min(peers, key=peers.__getitem__) if peers else None
            return (f"{significant(peers[best])}x ({best})" if best else "no peer",
                    f"{line['of_limit']:.0%} ({line['roof']})" if line["of_limit"] else "")
    return "", ""


def rewrite(text: str, table: str) -> str:
    """The README's text with the table between its marks; ValueError when the marks are missing."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the file has no lines {BEGIN} and {END}: put them where the table belongs")
    return pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text)


def main(argv: Sequence[str]) -> int:
    """`python -m fastgd.bench.report README.md bench/results/X.json ..`: rewrite the README's kernel table."""
    if len(argv) < 2:
        print("usage: python -m fastgd.bench.report README.md RESULTS.json ...", file=sys.stderr)
        return 2
    readme = Path(argv[0])
    try:
        readme.write_text(rewrite(readme.read_text(), readme_table(*argv[1:])))
    except (OSError, ValueError) as error:
        print(f"fastgd: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
