"""The command line: `fastgd info`, `fastgd bench`, `fastgd demo NAME`; also `python -m fastgd ...`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .bench import command

#: Optional libraries, and what they are for.
OPTIONAL = {"torch": "tensors in and out", "cupy": "GPU arrays", "jax": "arrays in and out",
            "numba_cuda": "GPU kernels", "sklearn": "the demo's data", "matplotlib": "pictures",
            "tqdm": "progress bars", "threadpoolctl": "equal thread counts in bench", "byzfl": "peer in bench",
            "flwr": "peer in bench", "simsimd": "peer in bench", "scipy": "peer in bench", "cpprb": "peer in bench",
            "tianshou": "peer in bench"}

ENVIRONMENT = ("FASTGD_BACKEND", "FASTGD_NUM_THREADS", "FASTGD_ISA", "OMP_NUM_THREADS")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 fine, 1 a check failed, 2 a wish that cannot be met."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except command.UsageError as error:
        print(f"fastgd: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["demo"]:
        # A demo has arguments of its own, --help included.
        return _demo(arguments[1:])
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except ValueError as error:
        if "environment variable" in str(error):  # FASTGD_BACKEND=typo and the like
            raise command.UsageError(error) from None
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastgd", description="Kernels for robust, distributed and memory-efficient gradient descent.")
    parser.add_argument("--version", action="version", version=f"fastgd {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    info = commands.add_parser("info", help="what was built, where kernels can run, and why not")
    info.add_argument("--json", metavar="FILE", help="write the same as JSON; - is standard output")
    info.set_defaults(run=_info)
    bench = commands.add_parser("bench", help="verify and time kernels",
                                description="Verify and time kernels against the machine's limits and other libraries.")
    command.add_arguments(bench)
    bench.set_defaults(run=command.run)
    commands.add_parser("demo", help="a small experiment to look at: fastgd demo byzantine", add_help=False)
    return parser


# ----------------------------------------------------------------------------------------------------------- demo


def _demo(arguments: list[str]) -> int:
    names = _demos()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: fastgd demo NAME [arguments]\n\nNAME is one of: {', '.join(names) or '(none)'}. "
              "`fastgd demo NAME --help` lists its arguments.", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in names:
        raise command.UsageError(f"there is no demo {name!r}: choose from {', '.join(names)}")
    return int(importlib.import_module(f"fastgd.demo.{name}").main(rest) or 0)


def _demos() -> list[str]:
    """Modules of fastgd.demo that have a `main`."""
    spec = importlib.util.find_spec("fastgd.demo")
    if spec is None or spec.submodule_search_locations is None:
        return []
    found = []
    for module in pkgutil.iter_modules(spec.submodule_search_locations):
        source = Path(spec.submodule_search_locations[0], f"{module.name}.py")
        if not module.name.startswith("_") and source.exists() and "def main(" in source.read_text():
            found.append(module.name)
    return found


# ----------------------------------------------------------------------------------------------------------- info


def _info(args: argparse.Namespace) -> int:
    record = information()
    if args.json:
        command.write_json(args.json, record)
    if args.json != "-":
        print(_as_text(record))
    return 0


def information() -> dict[str, Any]:
    """What `fastgd info` tells."""
    from . import _cuda, _dispatch, _threads
    from .bench import machine
    from .bench.case import ROOMS

    for room in ROOMS:
        importlib.import_module(f"fastgd.{room}")
    record = machine.machine()
    gpu_reasons = _cuda.why_unavailable()
    record.pop("load_average")
    table: dict[str, dict[str, Any]] = {}
    for row in _dispatch.kernels():
        operand = _dispatch.Operand("cuda" if row.backend == "cuda" else "cpu", row.dtypes[0])
        reasons = row.why_not(operand)
        entry = table.setdefault(row.operation, {"dtypes": list(row.dtypes), "backends": {}})
        entry["backends"][row.backend] = "ok" if not reasons else "; ".join(reasons)
    record |= {
        "isa_available": _isa_available(),
        "c_core": "; ".join(_dispatch._environment("cpu")) or "built",
        "threads_why": _why_threads(_threads.available()),
        "gpu": machine.gpu() if not gpu_reasons and not _cuda.simulated() else None,
        "gpu_why_not": ["Numba's CUDA simulator runs in this process"] if _cuda.simulated() else list(gpu_reasons),
        "kernels": table,
        "optional": {name: importlib.util.find_spec(name) is not None for name in OPTIONAL},
        "environment": {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)},
    }
    return record


def _isa_available() -> list[str]:
    try:
        from ._native import ISA_LEVELS, lib
    except ImportError:
        return []
    return list(ISA_LEVELS[: lib.fgd_isa_best() + 1])


def _why_threads(count: int) -> str:
    """The reason behind the number of threads."""
    if os.environ.get("FASTGD_NUM_THREADS"):
        return "FASTGD_NUM_THREADS is set"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < cpus:
        return "OMP_NUM_THREADS is set" if os.environ.get("OMP_NUM_THREADS") else "the cgroup's quota"
    return "the CPUs this process may use"


def _as_text(record: dict[str, Any]) -> str:
    level = f"{record['isa']} in use, of {', '.join(record['isa_available'])}" if record["isa"] else "none"
    gpu = record["gpu"] or f"none: {'; '.join(record['gpu_why_not'])}"
    lines = [f"fastgd {record['fastgd']}, Python {record['python']}, {record['system']}",
             f"  CPU            {record['cpu']}, {record['cores']} cores",
             f"  C core         {record['c_core']}",
             f"  instructions   {level}",
             f"  threads        {record['threads']}: {record['threads_why']}",
             f"  GPU            {gpu}"]
    if record["environment"]:
        settings = [f"{name}={value}" for name, value in record["environment"].items()]
        lines.append(f"  environment    {', '.join(settings)}")
    backends = ("cpu", "cuda", "reference")
    width = max(len(operation) for operation in record["kernels"])
    remarks: dict[str, int] = {}
    lines += ["", f"{'kernel':<{width}}  {'cpu':<5} {'cuda':<5} {'reference':<9}  dtypes"]
    for operation, row in record["kernels"].items():
        marks = []
        for backend in backends:
            why = row["backends"].get(backend, f"no {backend} kernel")
            marks.append("ok" if why == "ok" else f"({remarks.setdefault(why, len(remarks) + 1)})")
        lines.append(f"{operation:<{width}}  {marks[0]:<5} {marks[1]:<5} {marks[2]:<9}  {', '.join(row['dtypes'])}")
    lines += [f"({number}) {why}" for why, number in remarks.items()]
    found = [name for name, there in record["optional"].items() if there]
    absent = [f"{name} ({OPTIONAL[name]})" for name, there in record["optional"].items() if not there]
    lines += ["", f"optional libraries found: {', '.join(found) or 'none'}"]
    if absent:
        lines.append(f"not found: {', '.join(absent)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
