"""`fastgd bench`: arguments in, table, JSON and pictures out."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

#: Worker threads of BLAS and OpenMP libraries sleep when they are idle. By default they spin, on the core that the next
#: contestant wants.
QUIET_WORKERS = {"OPENBLAS_THREAD_TIMEOUT": "4", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


class UsageError(Exception):
    """A wish that cannot be met; its text is the one sentence the user sees."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fastgd bench`."""
    add = parser.add_argument
    add("filter", nargs="?", metavar="FILTER", help='regular expression, searched in "room/operation/input"; large '
                                                    "inputs only with --size or when nothing else matches")
    add("--room", metavar="NAMES", help="robust, compress, dro, sinkhorn, random (default: all)")
    add("--size", metavar="SIZES", help="tiny, small, medium, large; or a shape such as n=32,d=100000")
    add("--dtype", metavar="NAMES", help="float32, float64, float16, bfloat16")
    add("--backend", metavar="NAMES", help="cpu, cuda, reference (default: what host arrays get)")
    add("--threads", metavar="COUNTS", default="all", help="numbers of threads, such as 1,all (default: all)")
    add("--peer", metavar="NAMES", default="all", help="all, none, or names such as byzfl,torch (default: all)")
    add("--peers", action="store_true", help="print a line for every peer")
    add("--check", action="store_true", help="verify results against the reference, time nothing")
    add("--json", metavar="FILE", help="write results as JSON; - is standard output")
    add("--markdown", action="store_true", help="print the table as markdown")
    add("--plot", metavar="FILE.png", help="draw the share of the limit and the ratios to peers (needs matplotlib)")
    add("--compare", metavar="OLD.json", help="print the change against an earlier --json file")
    add("--fail-over", metavar="PERCENT", help="with --compare: exit 1 when a case became slower by more, such as 10%%")
    add("--list", action="store_true", help="list the cases and stop")
    add("--min-time", metavar="SECONDS", type=float, default=0.3, help="time to sample each function (default: 0.3)")
    add("--readme", metavar="README.md", help="rewrite its kernel table from a --json file, given in place of FILTER")


def run(args: argparse.Namespace) -> int:
    """Run `fastgd bench`; the exit status is 1 when a result is wrong or a case became too slow."""
    for name, value in QUIET_WORKERS.items():
        os.environ.setdefault(name, value)  # read when NumPy and torch load their libraries, which is below
    # Numbers and names are checked before anything heavy is imported or measured.
    shape, sizes = _sizes(args.size)
    fail_over = _percent(args.fail_over)
    if args.min_time <= 0:
        raise UsageError(f"--min-time must be positive, got {args.min_time}")
    old = _read_json(args.compare) if args.compare else None
    if args.fail_over and old is None:
        raise UsageError("--fail-over needs --compare OLD.json")
    if args.readme:
        return _readme(args)

    from . import report
    from .case import SIZES

    options, rooms, dtypes = _options(args)
    if args.list and not sizes:
        sizes = SIZES
    cases = _cases(args.filter, rooms, sizes, shape, dtypes)
    if args.list:
        for case in cases:
            mark = "*" if case.default else " "
            print(f"{case.full_name:<40} {mark} {case.size:<7} {case.dtype:<9} {case.note}".rstrip())
        print("* runs by default", file=sys.stderr)
        return 0
    if args.plot:
        try:
            from . import plot
        except ImportError as error:
            raise UsageError(f"--plot needs matplotlib ({error}): pip install 'fastgd[plot]'") from None
    with _writable(args.json), _writable(args.plot):
        results, record = _measure(args, cases, options)
        if args.json:
            write_json(args.json, record)
        if args.plot:
            from . import plot

            plot.draw(record, args.plot)
    too_slow = False
    if old is not None:
        text, too_slow = report.compare(old, record, fail_over)
        print(text, file=_out(args))
    failed = [result for result in results if result.status == "failed"]
    return 1 if failed or too_slow else 0


def _measure(args: argparse.Namespace, cases: list[Any], options: Any) -> tuple[list[Any], dict[str, Any]]:
    """Run the cases, printing lines as they come; the results and the record for JSON."""
    from . import report
    from .machine import is_busy, machine
    from .runner import backend_of_auto, roofs_of, run_cases, why_not

    out = _out(args)
    backends = options.backends or (backend_of_auto(),)
    record = machine(backends)
    if not options.backends and backends == ("reference",):
        _note(f"the C core is not used: {'; '.join(why_not('cpu')) or 'FASTGD_BACKEND=reference is set'}")
    roofs: dict[str, Any] = {}
    rates: dict[str, dict[str, dict[str, float]]] = {}
    if not args.check:
        for backend in backends:
            for count in options.threads if backend == "cpu" else options.threads[-1:]:
                if backend != "reference" and not why_not(backend):
                    where = roofs_of(roofs, backend)
                    rates.setdefault(backend, {})[str(count) if backend == "cpu" else "1"] = where.headline(count)
                    where.release()
    print(report.head(record, rates), file=out)
    if is_busy(record["load_average"], record["threads"]):
        _note(f"the machine is busy (load average {record['load_average']}): times will be too long and unsteady")
    table = report.Table([case.full_name for case in cases])
    if not args.markdown:
        print("\n" + table.header(), file=out, flush=True)
    results: list[Any] = []
    with report.Progress(len(cases)) as (step, write):
        for result in run_cases(cases, options, roofs, step):
            results.append(result)
            if not args.markdown:
                lines = [table.line(report.cells(result)), *(report.peer_lines(result) if args.peers else [])]
                write("\n".join(lines), out)
    if args.markdown:
        print("\n" + report.markdown(results), file=out)
    if not args.check:
        print("\n" + report.LEGEND, file=out)
    unsteady = sum(result.timing is not None and result.timing.spread > 0.1 for result in results)
    if unsteady:
        _note(f"{unsteady} of {len(results)} lines vary by more than 10 %: the machine was not idle, measure again")
    above = sum((result.of_limit or 0.0) > 1.05 for result in results)
    if above:
        _note(f"{above} lines are above 100 % of the limit: the limits were measured in a busy moment, measure again")
    return results, {"machine": record, "roofs": rates, "results": [result.as_json() for result in results]}


# ----------------------------------------------------------------------------------------------------- arguments


def _names(text: str | None, allowed: tuple[str, ...], option: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    for name in names:
        if name not in allowed:
            raise UsageError(f"{option} must name some of {', '.join(allowed)}, got {name!r}")
    return names


def _sizes(text: str | None) -> tuple[dict[str, int], tuple[str, ...]]:
    """A shape or names of sizes."""
    if not text or "=" not in text:
        return {}, _names(text, ("tiny", "small", "medium", "large"), "--size")
    shape = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            number = float(value)
            count = int(number)
        except (ValueError, OverflowError):
            number, count = 0.5, 0
        if name.strip() not in ("n", "d") or count != number or count < 1:
            raise UsageError("--size must be tiny, small, medium, large or n=..,d=.. with positive integers, "
                             f"got {text!r}")
        shape[name.strip()] = count
    return shape, ()


def _percent(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.removesuffix("%")) / 100.0
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise UsageError(f"--fail-over must be a percentage such as 10%, got {text!r}")
    return value


def _options(args: argparse.Namespace) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    from .. import _threads
    from .._arrays import FLOATS
    from .._dispatch import BACKENDS
    from .case import ROOMS
    from .runner import Options, why_not

    rooms = _names(args.room, ROOMS, "--room") or ROOMS
    backends = _names(args.backend, BACKENDS, "--backend")
    for backend in backends:
        if reasons := why_not(backend):
            raise UsageError(f"--backend {backend} cannot run here: {'; '.join(reasons)}")
    counts = []
    for word in args.threads.split(","):
        if word.strip() != "all" and not (word.strip().isdecimal() and int(word) >= 1):
            raise UsageError(f"--threads must be numbers of at least 1 or 'all', such as 1,all, got {args.threads!r}")
        counts.append(_threads.available() if word.strip() == "all" else int(word))
    peers = None if args.peer == "all" else () if args.peer == "none" else tuple(args.peer.split(","))
    return (Options(backends, tuple(sorted(set(counts))), peers, args.check, args.min_time), rooms,
            _names(args.dtype, FLOATS, "--dtype"))


def _cases(pattern: str | None, rooms: tuple[str, ...], sizes: tuple[str, ...], shape: dict[str, int],
           dtypes: tuple[str, ...]) -> list[Any]:
    from .runner import select

    try:
        search = re.compile(pattern).search if pattern else None
    except re.error as error:
        raise UsageError(f"FILTER is no regular expression: {error} in {pattern!r}") from None
    try:
        cases = select(search, rooms=rooms, sizes=sizes, shape=shape, dtypes=dtypes)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
    if not cases:
        wish = f" {pattern!r}" if pattern else ""
        raise UsageError(f"no case matches{wish} with these options: see `fastgd bench --list`")
    return cases


# ---------------------------------------------------------------------------------------------- files and screen


def _out(args: argparse.Namespace) -> Any:
    """Where the table goes: standard output, unless the JSON does."""
    return sys.stderr if args.json == "-" else sys.stdout


def _note(text: str) -> None:
    print(f"NOTE: {text}", file=sys.stderr, flush=True)


def _read_json(path: str) -> Any:
    try:
        record = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("results"), list):
        raise UsageError(f"{path} is no file written by `fastgd bench --json`")
    return record


def write_json(path: str, record: Any) -> None:
    """Write `record` to a file, or to standard output for "-"."""
    text = json.dumps(_finite(record), indent=1, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        try:
            Path(path).write_text(text)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def _finite(value: Any) -> Any:
    """`value` with null for every NaN and Inf, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _writable(path: str | None) -> AbstractContextManager[Any]:
    """Find out before measuring, not after, that a file cannot be written."""
    if path and path != "-":
        file, folder = Path(path), Path(path).resolve().parent
        if file.is_dir() or not folder.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
            raise UsageError(f"cannot write {path}: the folder does not exist or may not be written to")
    return nullcontext()


def _readme(args: argparse.Namespace) -> int:
    from .report import main

    if not args.filter:
        raise UsageError("--readme needs the results: fastgd bench --readme README.md RESULTS.json")
    return main([args.readme, args.filter])
