"""What the command lines of all demonstrations share: numbers within limits, a progress bar, where results go."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .rules import Refusal

_SUFFIXES = (".png", ".pdf", ".svg")


class Parser(argparse.ArgumentParser):
    """Raises Refusal where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{message} (see --help)")


def integer(low: int, high: int) -> Callable[[str], int]:
    """The type of an option: an integer from `low` to `high`."""

    def integer(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    return integer


def number(low: float, high: float) -> Callable[[str], float]:
    """The type of an option: a number from `low` to `high`."""

    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low:g} to {high:g}")
        return value

    return number


def add_outputs(parser: argparse.ArgumentParser, plot: str) -> None:
    """The options --plot, --no-plot and --json; `plot` is where a picture goes by default."""
    parser.add_argument("--plot", type=Path, default=Path(plot), metavar="FILE",
                        help="where to draw the curves: .png, .pdf or .svg (default: %(default)s)")
    parser.add_argument("--no-plot", dest="plot", action="store_const", const=None, help="draw nothing")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write all results there; - is stdout")


def check_outputs(args: argparse.Namespace) -> None:
    """Refusal where results could not be written: better now than after the training."""
    check_file("--plot", args.plot, _SUFFIXES)
    check_file("--json", args.json)


def check_file(option: str, path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Refusal where there cannot be a file of that name; None and - are no files."""
    if path is None or (str(path) == "-" and not suffixes):
        return
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise Refusal(f"{option} {path}: {path.parent} is not a directory that can be written to")
    if suffixes and path.suffix.lower() not in suffixes:
        raise Refusal(f"{option} {path}: the name must end in {', '.join(suffixes)}")


def check_installed(args: argparse.Namespace, *more: tuple[str, str]) -> None:
    """Refusal where a package is missing that the training, or `more` (modules and their packages), or the picture needs."""
    wanted = [("sklearn", "scikit-learn", ""), *((*pair, "") for pair in more)]
    if args.plot is not None:
        wanted.append(("matplotlib", "matplotlib", ", or pass --no-plot"))
    for module, package, otherwise in wanted:
        if importlib.util.find_spec(module) is None:
            raise Refusal(f"this demonstration needs {package}: pip install 'fastgd[bench,plot]'{otherwise}")


def publish(args: argparse.Namespace, text: str, document: dict[str, Any], draw: Callable[[Path], None]) -> None:
    """Print the results, write them for machines and draw them, as far as `args` asks for it."""
    to_stdout = args.json is not None and str(args.json) == "-"
    stream = sys.stderr if to_stdout else sys.stdout
    print(text, file=stream)
    if args.json is not None:
        results = json.dumps(document, indent=2, allow_nan=False)
        if to_stdout:
            print(results)
        else:
            args.json.write_text(results + "\n")
            print(f"results written to {args.json}", file=stream)
    if args.plot is not None:
        draw(args.plot)
        print(f"curves drawn in {args.plot}", file=stream)


class _NoBar:
    """What is used of tqdm's bar, doing nothing."""

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, steps: int) -> None:
        pass

    def set_description(self, text: str) -> None:
        pass


def progress(total: int) -> Any:
    """A progress bar on stderr; none where tqdm is not installed or stderr is no terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(total=total, disable=None, unit="step", leave=False)
