"""`fastgd demo byzantine`: a small network learns digits while some of the workers attack it.

Each attack is met with the plain mean and with the robust rules; see `training.py` for what a step is. The rules take
the vectors as lists of layers, [W1, b1, W2, b2] per worker, as any network has them.

The plain mean is NumPy's. `fastgd.robust.mean` agrees with it on finite vectors and raises ValueError for a NaN or Inf.

References
----------
Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries (NIPS 2017), for Krum.
Karimireddy, He, Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing (ICLR 2022), for `--skew`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import fastgd
from fastgd._cuda import why_unavailable
from fastgd.robust.attacks import ATTACKS

from . import network as nn
from . import rules as choice
from .command import Parser, add_outputs, check_installed, check_outputs, integer, number, progress, publish
from .results import draw, report, table
from .rules import Refusal, Rule
from .training import Settings, gradients, train

__all__ = ["gradients", "main"]

ATTACK_NAMES = ("none", "nan", "inf", "sign_flip", "ipm", "alie", "gaussian", "mimic", "label_flip", "lemma31", "precision",
                "optimised_ipm", "optimised_alie")
SHOWN = ("nan", "sign_flip", "ipm")  # the attacks of a run without --attack


# ------------------------------------------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration. Returns 0, or 2 after one sentence on stderr saying why it cannot run."""
    try:
        args = _arguments(argv)
        check_installed(args)
        with fastgd.use(backend=args.backend):
            return _demonstrate(args)
    except (Refusal, OSError) as error:
        print(f"fastgd demo byzantine: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = Parser(
        prog="fastgd demo byzantine", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a small network on handwritten digits while some of the workers attack, with the plain mean "
                    "and with\nrobust rules, and show the test accuracy each of them reaches.",
        epilog="attacks (mean(h): the mean of what the honest workers send; see fastgd.robust.attacks):\n"
               "  nan, inf    every coordinate is NaN, or +Inf\n"
               "  sign_flip   -scale * mean(h), loud: far from what the honest workers send\n"
               "  ipm         -epsilon * mean(h), the same vector, quiet: 3 is just above 11 honest / 4 attacking,\n"
               "              where the plain mean turns around; 0.1 to 0.5 is aimed at Krum, not at the mean\n"
               "  alie        mean(h) + z * std(h), inside the spread of the honest vectors\n"
               "  gaussian    noise of standard deviation sigma\n"
               "  mimic       a copy of the first worker's vector; hurts most with --skew\n"
               "  label_flip  attackers learn 9 - label instead of label\n"
               "  lemma31     the vector that makes the plain mean zero: training stands still\n"
               "  precision   one vector of length norm, the others 10 spreads off the mean: against rules that round\n"
               "  optimised_  before ipm or alie: at every step the strength that harms the rule most (20 trials); ipm's\n"
               "              is also sign_flip's\n"
               "  none        the attackers behave\n"
               "rules: see fastgd.robust. nnm+RULE mixes nearest neighbours first, arc+nnm+RULE clips before that; monna\n"
               "trusts the first worker, which is honest; the mean is NumPy's.\n")
    add = parser.add_argument
    add("--attack", nargs="+", metavar="NAME", choices=(*ATTACK_NAMES, "all"), default=list(SHOWN),
        help=f"one or more of {', '.join(ATTACK_NAMES)}, all (default: {' '.join(SHOWN)})")
    add("--rule", nargs="+", metavar="NAME", default=list(choice.SHOWN),
        help=f"one or more of {', '.join((*choice.NAMES, *choice.COMPOSITIONS))}, or another composition, or all, which "
             f"takes a minute or more (default: {' '.join(choice.SHOWN)})")
    add("--workers", type=integer(1, 200), default=default.workers, metavar="N", help="(default: %(default)s)")
    add("--byzantine", type=integer(0, 199), default=default.byzantine, metavar="F",
        help="attackers among the workers (default: %(default)s)")
    add("--steps", type=integer(1, 100_000), default=default.steps, metavar="T", help="(default: %(default)s)")
    add("--seed", type=integer(0, 2**32 - 1), default=default.seed, metavar="S",
        help="decides shares, start and minibatches (default: %(default)s)")
    add("--momentum", type=number(0.0, 0.999), default=default.momentum, metavar="BETA",
        help="momentum at each worker (default: %(default)s)")
    add("--skew", type=number(0.0, 1.0), default=default.skew, metavar="FRACTION",
        help="part of the data that is dealt out sorted by label: 0 alike workers, 1 the most different (default: 0)")
    add("--scale", type=number(0.0, 1e30), default=10.0, metavar="X", help="of sign_flip (default: 10)")
    add("--epsilon", type=number(0.0, 1e30), default=3.0, metavar="X", help="of ipm (default: 3)")
    add("--z", type=number(-1e30, 1e30), default=None, metavar="X", help="of alie (default: the paper's z_max)")
    add("--sigma", type=number(0.0, 1e30), default=200.0, metavar="X", help="of gaussian (default: 200)")
    add("--norm", type=number(0.0, 1e30), default=1e10, metavar="X", help="of precision (default: 1e10)")
    add("--radius", type=number(1e-30, 1e30), default=0.3, metavar="X",
        help="of centered_clip (default: 0.3, the spread of the honest vectors)")
    add("--backend", choices=("auto", "cpu", "cuda", "reference"), default=None,
        help="which kernels aggregate (default: FASTGD_BACKEND, or auto)")
    add_outputs(parser, "byzantine.png")
    return parser


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    args = _parser().parse_args(argv)
    args.attack = list(ATTACK_NAMES) if "all" in args.attack else list(dict.fromkeys(args.attack))
    args.rule = [choice.known(name) for name in args.rule]
    if args.byzantine >= args.workers:
        raise Refusal(f"--byzantine {args.byzantine} leaves no honest one of --workers {args.workers}")
    check_outputs(args)
    return args


def _usable_rules(args: argparse.Namespace) -> tuple[dict[str, Rule], list[str]]:
    """The rules asked for, each tried once, and why some of "all" are left out."""
    rules, left_out = choice.usable(args.rule, args.workers, args.byzantine, args.radius)
    if (args.backend or os.environ.get("FASTGD_BACKEND")) == "cuda":
        if reasons := why_unavailable():
            raise Refusal(f"--backend cuda: {'; '.join(reasons)}")
        rules = {name: rule if name == "mean" else choice.on_device(rule) for name, rule in rules.items()}
    choice.try_out(rules, args.workers, args.byzantine)
    return rules, left_out


def _attack_options(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    given = {"sign_flip": {"scale": args.scale}, "ipm": {"epsilon": args.epsilon},
             "gaussian": {"sigma": args.sigma}, "alie": {"z": args.z}, "precision": {"norm": args.norm}}
    options = {name: given.get(name, {}) for name in args.attack}
    for name in args.attack:
        if name in ATTACKS:
            try:
                ATTACKS[name](np.zeros((args.workers - args.byzantine, 1)), args.byzantine, **options[name])
            except ValueError as error:
                raise Refusal(f"--attack {name}: {error}") from error
    return options


def _demonstrate(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    settings = Settings(args.workers, args.byzantine, args.steps, args.seed, momentum=args.momentum, skew=args.skew)
    (rules, left_out), options = _usable_rules(args), _attack_options(args)
    shares, test = nn.digits(settings.workers, settings.skew, settings.seed)
    alone = replace(settings, workers=settings.workers - settings.byzantine, byzantine=0)
    runs = []
    with progress(settings.steps * (1 + len(options) * len(rules))) as bar:
        bar.set_description("honest workers alone")
        baseline = train(shares[: alone.workers], test, alone, "none", choice.numpy_mean, "mean", tick=bar.update)
        for attack in options:
            for name, rule in rules.items():
                bar.set_description(f"{attack} / {name}")
                try:
                    runs.append(train(shares, test, settings, attack, rule, name, options[attack], bar.update))
                except ValueError as error:  # a limit of the rule that only such vectors reach
                    raise Refusal(f"--rule {name} --attack {attack}: {' '.join(str(error).split())}") from error
    text = table(runs, baseline, settings, options, left_out)
    publish(args, f"{text}\n{len(runs) + 1} trainings in {time.perf_counter() - start:.1f} s",
            report(runs, baseline, settings, options, args.backend, left_out),
            lambda path: draw(runs, baseline, settings, options, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
