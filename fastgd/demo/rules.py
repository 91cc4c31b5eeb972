"""The rules of the demonstration: every one of `fastgd.robust`, and compositions such as nnm+trimmed_mean.

A rule takes the vectors as lists of layers and the number of attackers f. Names are looked up in `fastgd.robust` when a
rule is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastgd
from fastgd import robust

from . import network as nn

Vector = list[np.ndarray]  # [W1, b1, W2, b2]
Rule = Callable[[list[Vector], int], Vector]

SHOWN = ("mean", "krum", "multikrum", "median", "trimmed_mean")  # the rules of a run without --rule
BEFORE = ("nnm", "arc")  # what may stand before a rule, joined by +


class Refusal(Exception):
    """A request that cannot be met; its text is one sentence for the user."""


class _Need(NamedTuple):
    """Workers that a rule needs: n >= factor f + more."""

    factor: int
    more: int


#: Rules that need more workers than attackers to work at all.
_NEEDS = {"krum": _Need(2, 3), "multikrum": _Need(2, 3), "bulyan": _Need(4, 3),
          **dict.fromkeys(("trimmed_mean", "meamed", "mda", "smea", "monna", "caf", *BEFORE), _Need(2, 1))}

NAMES = ("mean", "krum", "multikrum", "bulyan", "median", "trimmed_mean", "meamed", "geometric_median", "centered_clip", "mda",
         "smea", "monna", "caf")
WITHOUT_F = ("median", "geometric_median", "centered_clip")  # the rules that are not told the number of attackers
COMPOSITIONS = ("nnm+krum", "nnm+median", "nnm+trimmed_mean", "nnm+geometric_median", "arc+nnm+trimmed_mean")  # of many


def numpy_mean(vectors: list[Vector], f: int) -> Vector:
    """The plain mean of the vectors, which takes whatever comes, NaN included."""
    return [np.mean(layer, axis=0) for layer in zip(*vectors, strict=True)]


def make(name: str, radius: float = 0.3) -> Rule:
    """The rule of a name; `radius` is that of centered_clip."""
    if name == "mean":
        return numpy_mean
    *before, last = name.split("+")
    options: dict[str, dict[str, Any]] = {"centered_clip": {"radius": radius}, "monna": {"trusted": 0}}

    def rule(vectors: list[Vector], f: int) -> Vector:
        function = getattr(robust, "aggregate" if before else last)
        own = options.get(last, {})
        if before:
            return function(vectors, f, rule=last, pre=tuple(before), **own)
        return function(vectors, **own) if last in WITHOUT_F else function(vectors, f, **own)

    return rule


def known(text: str) -> str:
    """`text` if it names a rule, a composition or all; else Refusal."""
    *before, last = text.split("+")
    if (last in NAMES and all(part in BEFORE for part in before)) or text == "all":
        return text
    raise Refusal(f"--rule {text}: choose from {', '.join(NAMES)}, all, or put {' or '.join(BEFORE)} before a rule, as in "
                  f"{COMPOSITIONS[0]}")


def misfit(name: str, n: int, f: int) -> str | None:
    """What to change when a rule does not allow f attackers among n workers, as one sentence; None when it does."""
    needs = [_NEEDS[part] for part in name.split("+") if part in _NEEDS]
    need = max(needs, key=lambda need: need.factor * f + need.more, default=_Need(0, 1))
    fewest, most = need.factor * f + need.more, (n - need.more) // max(1, need.factor)
    if n >= fewest:
        return None
    fewer = f" or --byzantine {most}" if most >= 0 else ""
    return (f"{name} needs n >= {need.factor} f + {need.more} workers, {fewest} for {f} attacker{'s' * (f != 1)}: "
            f"pass --workers {fewest}{fewer}")


def usable(wanted: list[str], n: int, f: int, radius: float) -> tuple[dict[str, Rule], list[str]]:
    """The rules asked for, and why some of "all" are left out; Refusal where one asked for by name does not fit."""
    chosen, reasons = {}, []
    everything = (*NAMES, *COMPOSITIONS) if "all" in wanted else ()
    for name in dict.fromkeys((*(name for name in wanted if name != "all"), *everything)):
        reason = misfit(name, n, f)
        if reason is None:
            chosen[name] = make(name, radius)
        elif name in wanted:
            raise Refusal(f"--rule {reason}")
        else:
            reasons.append(reason)
    return chosen, reasons


def on_device(rule: Rule) -> Rule:
    """`rule` on copies of the vectors on the GPU."""
    from numba import cuda

    def moved(vectors: list[Vector], f: int) -> Vector:
        result: list[Any] = rule([[cuda.to_device(layer) for layer in vector] for vector in vectors], f)
        return [layer.copy_to_host() for layer in result]

    return moved


def try_out(rules: dict[str, Rule], n: int, f: int) -> None:
    """Each rule once on zeros: Refusal where the backend, or a limit of the rule, does not allow it."""
    zeros = [nn.layers(np.zeros(nn.SIZE, np.float32)) for _ in range(n)]
    for name, rule in rules.items():
        try:
            rule(zeros, f)
        except (ValueError, fastgd.BackendError) as error:
            raise Refusal(f"--rule {name}: {' '.join(str(error).split())}") from error
