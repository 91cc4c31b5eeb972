"""`fastgd demo compression`: four workers learn digits together and send few bytes instead of gradients.

Each worker has a thread, a share of the digits and a copy of a small network. At every step it computes a gradient on a
minibatch of its share and sends a payload; all add up what all have sent, `decode_add(payloads, sum, scale=1 / workers)`,
and take the same step. Payloads are the bytes of docs/wire.md and are counted with their headers. Every method starts from
the same network and draws the same minibatches. With feedback a payload is made by `ErrorFeedback.compress`, without
by `encode`.

What was chosen, and why. By default shares are sorted by label (`--skew 1`), so a worker sees two or three of the digits: what a
worker's codec drops is then what nobody else sends. `--skew 0` deals alike shares, and the biased codecs lose less. Every
method has a step size of its own, the best of 1/16, 1/8, .. 2 by the final training loss, averaged over the seeds 1, 2, 3 (400
steps, skew 1); the run shown has seed 0. `--tune` searches again, under the settings at hand. Plain steps, no momentum.

References
----------
Stich, Cordonnier, Jaggi: Sparsified SGD with Memory (NeurIPS 2018). Karimireddy, Rebjock, Stich, Jaggi: Error Feedback
Fixes SignSGD and other Gradient Compression Schemes (ICML 2019). Alistarh et al.: QSGD (NeurIPS 2017).
"""

from __future__ import annotations

import argparse
import contextvars
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastgd
from fastgd import compress

from . import network as nn
from .command import Parser, add_outputs, check_installed, check_outputs, integer, number, progress, publish
from .results import COLORS, aligned
from .rules import Refusal
from .training import one_blas_thread

__all__ = ["METHODS", "Method", "Run", "Settings", "main", "train"]

GRID = tuple(2.0**e for e in range(-4, 2))  # step sizes that --tune tries
TUNING_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Settings:
    """How to train."""

    workers: int = 4
    steps: int = 400
    seed: int = 0
    batch: int = 32
    skew: float = 1.0


@dataclass(frozen=True)
class Method:
    """A codec, with or without feedback, and the best step size found for it."""

    name: str
    codec: compress.codec.Codec
    feedback: bool
    rate: float

    @property
    def title(self) -> str:
        return f"{self.name}, error feedback" if self.feedback else self.name


METHODS = (
    Method("dense", compress.Identity(), False, 1.0),
    Method("TopK 1 %", compress.TopK(ratio=0.01), False, 1.0),
    Method("TopK 1 %", compress.TopK(ratio=0.01), True, 1.0),
    Method("Sign", compress.Sign(), False, 0.5),
    Method("Sign", compress.Sign(), True, 1.0),
    Method("QSGD 4 bits", compress.QSGD(levels=7, bucket=64), False, 1.0),
    Method("QSGD 4 bits", compress.QSGD(levels=7, bucket=64), True, 1.0),
)


class Run(NamedTuple):
    """One training: what each worker had sent and what all had learnt at some steps, 0 and the last included."""

    method: Method
    steps: list[int]
    sent: list[int]  # bytes a worker, headers included
    loss: list[float]  # of all training images; inf where the network is lost
    accuracy: float  # of the test images, at the end


# ------------------------------------------------------------------------------------------------------- training


class Worker:
    """A share of the digits, a stream of minibatches, and what the codec left out so far."""

    def __init__(self, method: Method, share: nn.Batch, settings: Settings, rank: int) -> None:
        self._share, self._size, self._rank = share, settings.batch, rank
        self._rng = np.random.default_rng((settings.seed, rank))
        self._codec, self._seed, self._step = method.codec, settings.seed, 0
        self._memory = None
        if method.feedback:
            self._memory = compress.ErrorFeedback(method.codec, nn.SIZE, seed=settings.seed, rank=rank)

    def send(self, network: list[np.ndarray]) -> np.ndarray | None:
        """The payload of a gradient; None where the gradient is not finite."""
        images, labels = self._share
        drawn = self._rng.integers(len(labels), size=self._size)
        with np.errstate(all="ignore"):  # this thread's own
            slopes = nn.gradient(network, nn.Batch(images[drawn], labels[drawn]))
        gradient = np.concatenate([slope.ravel() for slope in slopes]).astype(np.float32, copy=False)
        if not np.isfinite(gradient).all():
            return None
        if self._memory is not None:
            return self._memory.compress(gradient)
        self._step += 1  # roundings of different workers are drawn apart
        return compress.encode(self._codec, gradient, seed=self._seed + (self._rank << 32), step=self._step - 1)


def train(method: Method, shares: list[nn.Batch], test: nn.Batch, settings: Settings,
          tick: Callable[[int], Any] = lambda steps: None) -> Run:
    """One training, from the same start and on the same minibatches for every method."""
    everything = nn.Batch(*(np.concatenate(parts) for parts in zip(*shares, strict=True)))
    flat = np.concatenate([layer.ravel() for layer in nn.initial(settings.seed)])
    network, total = nn.layers(flat), np.empty_like(flat)
    workers = [Worker(method, share, settings, rank) for rank, share in enumerate(shares)]
    every, sent = max(1, settings.steps // 40), 0
    run = Run(method, [0], [0], [_loss(network, everything)], 0.0)
    with one_blas_thread(), np.errstate(all="ignore"), ThreadPoolExecutor(len(workers)) as pool:  # networks may diverge
        for step in range(1, settings.steps + 1):
            tasks = [pool.submit(contextvars.copy_context().run, worker.send, network) for worker in workers]
            payloads = [payload for task in tasks if (payload := task.result()) is not None]
            if len(payloads) == len(workers):
                sent += max(len(payload) for payload in payloads)
                total.fill(0.0)
                compress.decode_add(payloads, total, scale=1.0 / len(workers))
                flat -= np.float32(method.rate) * total
            lost = len(payloads) < len(workers) or not np.isfinite(flat).all()
            if step % every == 0 or step == settings.steps or lost:
                run.steps.append(step)
                run.sent.append(sent)
                run.loss.append(np.inf if lost else _loss(network, everything))
            tick(1)
            if lost:
                tick(settings.steps - step)
                break
    return run._replace(accuracy=0.0 if lost else nn.accuracy(network, test))


def _loss(network: list[np.ndarray], batch: nn.Batch) -> float:
    """The mean of -log p[label]."""
    weights1, bias1, weights2, bias2 = network
    scores = np.maximum(batch.images @ weights1 + bias1, 0.0) @ weights2 + bias2
    scores = (scores - scores.max(axis=1, keepdims=True)).astype(np.float64)
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(scores)), batch.labels]
    return float(losses.mean()) if np.isfinite(losses).all() else np.inf


def tuned(method: Method, settings: Settings, tick: Callable[[int], Any]) -> Method:
    """The method with the step size of GRID that ends with the least loss, in the mean of TUNING_SEEDS without the one shown."""
    seeds = [seed for seed in TUNING_SEEDS if seed != settings.seed]
    found = {}
    for rate in GRID:
        trial, losses = Method(method.name, method.codec, method.feedback, rate), []
        for seed in seeds:
            chosen = Settings(settings.workers, settings.steps, seed, settings.batch, settings.skew)
            losses.append(train(trial, *nn.digits(chosen.workers, chosen.skew, seed), chosen, tick).loss[-1])
        found[rate] = float(np.mean(losses))
    return Method(method.name, method.codec, method.feedback, min(found, key=lambda rate: found[rate]))


# -------------------------------------------------------------------------------------------------------- results


def table(runs: list[Run], settings: Settings, searched: bool = False) -> str:
    """What each method reached and sent."""
    dense = next(run for run in runs if run.method.name == "dense")
    rows = [["method", "feedback", "step size", "steps", "bytes sent", "of dense", "final loss", "x dense", "accuracy"]]
    for run in runs:
        loss = ["diverged", "-"]
        if np.isfinite(run.loss[-1]):
            loss = [f"{run.loss[-1]:.4f}", f"{run.loss[-1] / dense.loss[-1]:.1f}"]
        rows.append([run.method.name, "yes" if run.method.feedback else "no", f"{run.method.rate:g}", f"{run.steps[-1]}",
                     f"{run.sent[-1]:,}", f"{run.sent[-1] / max(dense.sent[-1], 1):.1%}", *loss, f"{run.accuracy:.1%}"])
    lines = aligned(rows)
    dealt = {0.0: "alike shares", 1.0: "shares sorted by label"}.get(settings.skew, f"{settings.skew:.0%} of the shares sorted")
    head = (f"{settings.workers} workers, {dealt}, {settings.steps} steps on {settings.batch} digits each, "
            f"seed {settings.seed}; {nn.SIZE:,} parameters")
    notes = ["Bytes are those that one worker sent, headers included. Loss: all training images; accuracy: test images.",
             "Each step size is the best of 1/16, 1/8, .. 2 for its method, found on seeds 1, 2, 3"
             + (" under these settings." if searched else " with 4 workers, sorted shares, 400 steps.")]
    return "\n".join([head, "", *lines, "", *notes])


def report(runs: list[Run], settings: Settings, backend: str | None) -> dict[str, Any]:
    """All results, for machines; a loss of None is a network that was lost."""
    return {
        "fastgd": fastgd.__version__,
        "settings": asdict(settings),
        "backend": backend or os.environ.get("FASTGD_BACKEND") or "auto",
        "results": [{"method": run.method.name, "codec": repr(run.method.codec), "feedback": run.method.feedback,
                     "rate": run.method.rate, "accuracy": run.accuracy, "bytes": run.sent[-1], "steps": run.steps,
                     "sent": run.sent, "loss": [loss if np.isfinite(loss) else None for loss in run.loss]} for run in runs],
    }


def draw(runs: list[Run], settings: Settings, path: Path) -> None:
    """Draw the training loss over the bytes sent into the file `path`; dashes are methods without feedback."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    colors = dict(zip(dict.fromkeys(run.method.name for run in runs), ("0.35", *COLORS), strict=False))
    for run in runs:
        plain = not run.method.feedback and run.method.name != "dense"
        axes.plot([sent / 1e3 for sent in run.sent[1:]], run.loss[1:], color=colors[run.method.name],
                  linestyle=(0, (4, 2)) if plain else "-", linewidth=1.8,
                  label=run.method.title + (", no feedback" if plain else ""))
        if np.isfinite(run.loss[-1]):
            axes.plot(run.sent[-1] / 1e3, run.loss[-1], "o", color=colors[run.method.name], markersize=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("kilobytes sent by a worker")
    axes.set_ylabel("training loss")
    axes.set_title(f"{settings.workers} workers, {settings.steps} steps, compressed gradients", fontsize=13)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=150)


# --------------------------------------------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration. Returns 0, or 2 after one sentence on stderr saying why it cannot run."""
    try:
        args = _arguments(argv)
        check_installed(args)
        with fastgd.use(backend=args.backend):
            return _demonstrate(args)
    except (Refusal, OSError, fastgd.BackendError) as error:
        print(f"fastgd demo compression: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = Parser(
        prog="fastgd demo compression", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a small network on handwritten digits with several workers that send compressed gradients, with "
                    "and\nwithout error feedback, and show what each codec costs and reaches.",
        epilog="methods: dense (all values), TopK 1 % (the largest), Sign (one bit each), QSGD 4 bits (unbiased rounding).\n"
               "Without feedback TopK and Sign are biased: what they drop is lost, and the more so the less alike the workers\n"
               "are (--skew). With it, what is dropped is sent later. QSGD is unbiased and needs none.\n")
    add = parser.add_argument
    add("--workers", type=integer(1, 64), default=default.workers, metavar="N", help="(default: %(default)s)")
    add("--steps", type=integer(1, 100_000), default=default.steps, metavar="T", help="(default: %(default)s)")
    add("--seed", type=integer(0, 2**31), default=default.seed, metavar="S",
        help="decides shares, start, minibatches and roundings (default: %(default)s)")
    add("--batch", type=integer(1, 10_000), default=default.batch, metavar="B",
        help="digits in a minibatch (default: %(default)s)")
    add("--skew", type=number(0.0, 1.0), default=default.skew, metavar="FRACTION",
        help="part of the data that is dealt out sorted by label: 0 alike workers, 1 the most different (default: 1)")
    add("--tune", action="store_true",
        help=f"search each method's step size again under these settings, on seeds {', '.join(map(str, TUNING_SEEDS))}: "
             "twenty times as long")
    add("--backend", choices=("auto", "cpu", "reference"), default=None,
        help="which kernels compress (default: FASTGD_BACKEND, or auto)")
    add_outputs(parser, "compression.png")
    return parser


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    args = _parser().parse_args(argv)
    check_outputs(args)
    return args


def _demonstrate(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    settings = Settings(args.workers, args.steps, args.seed, args.batch, args.skew)
    shares, test = nn.digits(settings.workers, settings.skew, settings.seed)
    trials = len(GRID) * sum(seed != settings.seed for seed in TUNING_SEEDS) if args.tune else 0
    runs = []
    with progress(settings.steps * len(METHODS) * (1 + trials)) as bar:
        for method in METHODS:
            if args.tune:
                bar.set_description(f"tuning {method.title}")
                method = tuned(method, settings, bar.update)
            bar.set_description(method.title)
            runs.append(train(method, shares, test, settings, bar.update))
    trainings = f"{len(runs) * (1 + trials)} trainings in {time.perf_counter() - start:.1f} s"
    publish(args, f"{table(runs, settings, args.tune)}\n{trainings}", report(runs, settings, args.backend),
            lambda path: draw(runs, settings, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
