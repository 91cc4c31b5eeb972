"""The same pipelines composed of torch's operations, as the public compression libraries compose them, for the benchmark.

One step of error feedback there is: compensate (p = e + g), compress, decompress, update (e = p - c), each a pass or
several over arrays as long as the gradient (grace does it so; signs are one byte each there). No peer writes bytes that
could be sent as they are, checks its input, or is exact about ties.

Inputs are `bench.case.Case` inputs: grads (a list of gradients, taken in turn), payloads, ratio, bucket.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..bench.case import prepared

Step = Callable[[Any], Any]  # p -> c, decompressed


def _feedback(make: Callable[[Any, dict[str, Any]], Step], estimate: bool = False) -> Any:
    """A peer that takes one gradient after another: e = e + g - C(e + g), or d = d + C(g - d)."""

    @prepared
    def peer(inputs: dict[str, Any]) -> Any:
        torch = importlib.import_module("torch")
        grads = [torch.from_numpy(g) for g in inputs["grads"]]
        memory, step, count = torch.zeros_like(grads[0]), make(torch, inputs), [0]

        def work() -> None:
            nonlocal memory
            g = grads[count[0] % len(grads)]
            count[0] += 1
            if estimate:
                memory += step(g - memory)
            else:
                p = memory + g
                memory = p - step(p)

        return work

    return peer


def _sign(torch: Any, inputs: dict[str, Any]) -> Step:
    def step(p: Any) -> Any:
        mean, signs = p.abs().mean(), (p >= 0).to(torch.uint8)
        return (signs.to(torch.float32) * 2 - 1) * mean

    return step


def _topk(torch: Any, inputs: dict[str, Any]) -> Step:
    k = max(1, int(inputs["ratio"] * len(inputs["grads"][0])))

    def step(p: Any) -> Any:
        index = torch.topk(p.abs(), k, sorted=False).indices
        return torch.zeros_like(p).scatter_(0, index, torch.gather(p, 0, index))

    return step


def _qsgd(torch: Any, inputs: dict[str, Any]) -> Step:
    levels, bucket = 127, inputs["bucket"]

    def step(p: Any) -> Any:
        rows = p.view(-1, bucket)
        norm = rows.abs().amax(1, keepdim=True)
        level = rows.abs() * (levels / norm)
        floor = level.floor()
        level = floor + (torch.rand_like(level) < level - floor)
        codes = (level * rows.sign()).to(torch.int8)
        return (codes.to(torch.float32) * (norm / levels)).view(-1)

    return step


def _int8(torch: Any, inputs: dict[str, Any]) -> Step:
    bucket = inputs["bucket"]

    def step(p: Any) -> Any:
        rows = p.view(-1, bucket)
        scale = rows.abs().amax(1, keepdim=True) / 127
        codes = (rows / scale).round().clamp(-127, 127).to(torch.int8)
        return (codes.to(torch.float32) * scale).view(-1)

    return step


@prepared
def torch_topk(inputs: dict[str, Any]) -> Any:
    """torch.topk of the magnitudes, and the values."""
    torch = importlib.import_module("torch")
    x = torch.from_numpy(inputs["grads"][0])
    k = max(1, int(inputs["ratio"] * len(x)))

    def work() -> Any:
        index = torch.topk(x.abs(), k, sorted=False).indices
        return index, torch.gather(x, 0, index)

    return work


@prepared
def torch_sum_signs(inputs: dict[str, Any]) -> Any:
    """Each worker's signs (a byte each) and mean made dense, and added."""
    torch = importlib.import_module("torch")
    received = [((torch.from_numpy(x) >= 0).to(torch.uint8), torch.from_numpy(x).abs().mean()) for x in inputs["vectors"]]
    total = torch.zeros(len(inputs["vectors"][0]))

    def work() -> None:
        for signs, mean in received:
            total.add_((signs.to(torch.float32) * 2 - 1) * mean, alpha=1 / len(received))

    return work


@prepared
def numpy_vote(inputs: dict[str, Any]) -> Any:
    """Unpack the bits, add them, compare, pack."""
    packed = [np.packbits(x < 0, bitorder="little") for x in inputs["vectors"]]

    def work() -> Any:
        count = np.zeros(8 * len(packed[0]), np.int32)
        for bits in packed:
            count += np.unpackbits(bits, bitorder="little")
        return np.packbits(2 * count > len(packed), bitorder="little")

    return work


@prepared
def torch_powersgd(inputs: dict[str, Any]) -> Any:
    """The arithmetic of torch's own hook: P = M Q, orthogonalise, Q = M'P, c = P Q', e = M - c."""
    torch = importlib.import_module("torch")
    rows, cols = inputs["shape"]
    grads, count = [torch.from_numpy(g).view(rows, cols) for g in inputs["grads"]], [0]
    error, approximation = torch.zeros(rows, cols), torch.empty(rows, cols)
    right = torch.randn(cols, inputs["rank"])

    def work() -> None:
        nonlocal right
        error.add_(grads[count[0] % len(grads)])
        count[0] += 1
        left = torch.linalg.qr(error @ right)[0]
        right = error.t() @ left
        torch.matmul(left, right.t(), out=approximation)
        error.sub_(approximation)

    return work


FEEDBACK = {"ef_sign": _feedback(_sign), "ef_topk": _feedback(_topk), "ef21_topk": _feedback(_topk, estimate=True),
            "ef_qsgd": _feedback(_qsgd), "ef_int8": _feedback(_int8)}
