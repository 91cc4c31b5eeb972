"""Other libraries doing the work of this room, for the benchmark. Each is imported only when its peer is started.

Their definitions differ in details that change no amount of work: ByzFL's Krum adds the n - f - 1 nearest instead of
n - f - 2, torch.median takes the lower middle value, Flower cuts int(p n) values and its newer Bulyan scores once
instead of again after every choice, ByzFL's geometric median stops after three steps. What differs in accuracy: the Gram
identity |x|^2 - 2xy + |y|^2 (torch.cdist above 25 rows, Flower's new Multi-Krum) loses the digits that vectors
have in common.

Inputs are `bench.case.Case` inputs: x (NumPy, torch for bfloat16, or a list of lists of layers), f, m, weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ..bench.case import prepared

Peer = Callable[[dict[str, Any]], Any]
Arguments = Callable[[dict[str, Any]], tuple[Any, ...]]


def _byzfl(module: str = "aggregators") -> Any:
    """ByzFL's rules, without the training loop that its package imports with them (and torchvision with that)."""
    name = f"byzfl.aggregators.{module}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        spec = importlib.util.find_spec("byzfl") if "byzfl" not in sys.modules else None
        if spec is None or spec.submodule_search_locations is None:
            raise
        package = ModuleType("byzfl")
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
        sys.modules["byzfl"] = package
        return importlib.import_module(name)


def _torch(x: Any) -> Any:
    torch = importlib.import_module("torch")
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


def _byzfl_peer(rule: str, arguments: Arguments, in_torch: bool, module: str = "aggregators") -> Peer:
    @prepared
    def peer(inputs: dict[str, Any]) -> Any:
        aggregate = getattr(_byzfl(module), rule)(*arguments(inputs))
        x = _torch(inputs["x"]) if in_torch else inputs["x"]
        return lambda: aggregate(x)

    return peer


def _byzfl_pair(rule: str, arguments: Arguments = lambda inputs: (), module: str = "aggregators") -> dict[str, Peer]:
    return {"byzfl": _byzfl_peer(rule, arguments, False, module), "byzfl-torch": _byzfl_peer(rule, arguments, True, module)}


def _flwr_peer(function: str, arguments: Arguments = lambda inputs: ()) -> Peer:
    """Flower's functions on lists of (layers, number of examples), as its older strategies call them."""

    @prepared
    def peer(inputs: dict[str, Any]) -> Any:
        aggregate = getattr(importlib.import_module("flwr.server.strategy.aggregate"), function)
        results = [(list(row) if isinstance(row, list | tuple) else [row], 1) for row in inputs["x"]]
        return lambda: aggregate(results, *arguments(inputs))

    return peer


class _Record:
    """The part of Flower's ArrayRecord and RecordDict that its Multi-Krum reads; spares the peer a deserialisation."""

    def __init__(self, row: np.ndarray) -> None:
        self.array_records = {"arrays": self}
        self._row = row

    def __getitem__(self, key: str) -> _Record:
        return self

    def to_numpy_ndarrays(self) -> list[np.ndarray]:
        return [self._row]


def _flwr_bulyan(inputs: dict[str, Any]) -> Any:
    """Flower's older Bulyan, which empties the list that it is given."""
    module = importlib.import_module("flwr.server.strategy.aggregate")
    results = [([row], 1) for row in inputs["x"]]
    return lambda: module.aggregate_bulyan(list(results), inputs["f"], module.aggregate_krum, to_keep=0)


def _flwr_new_bulyan(inputs: dict[str, Any]) -> Any:
    """What Flower's newer Bulyan does with the replies: one scoring, the median of the best, the values nearest to it."""
    choose = importlib.import_module("flwr.serverapp.strategy.multikrum").select_multikrum
    average = importlib.import_module("flwr.serverapp.strategy.bulyan").aggregate_n_closest_weights
    records, f = [_Record(row) for row in inputs["x"]], inputs["f"]
    keep = len(records) - 2 * f

    def work() -> Any:
        rows = [[chosen._row] for chosen in choose(records, f, keep)]
        return average([np.median([row for row, in rows], axis=0)], rows, keep - 2 * f)

    return work


def _byzfl_nnm_krum(in_torch: bool) -> Peer:
    @prepared
    def peer(inputs: dict[str, Any]) -> Any:
        mix, aggregate = _byzfl("preaggregators").NNM(inputs["f"]), _byzfl().Krum(inputs["f"])
        x = _torch(inputs["x"]) if in_torch else inputs["x"]
        return lambda: aggregate(mix(x))

    return peer


def _flwr_new_distances(inputs: dict[str, Any]) -> Any:
    compute = importlib.import_module("flwr.serverapp.strategy.multikrum").compute_distances
    records = [_Record(row) for row in inputs["x"]]
    return lambda: compute(records)


def _flwr_new_krum(inputs: dict[str, Any]) -> Any:
    choose = importlib.import_module("flwr.serverapp.strategy.multikrum").select_multikrum
    records = [_Record(row) for row in inputs["x"]]
    return lambda: choose(records, inputs["f"], 1)


def _flwr_new_multikrum(inputs: dict[str, Any]) -> Any:
    choose = importlib.import_module("flwr.serverapp.strategy.multikrum").select_multikrum
    records = [_Record(row) for row in inputs["x"]]
    return lambda: np.mean([chosen._row for chosen in choose(records, inputs["f"], inputs["m"])], axis=0)


def _simsimd_distances(inputs: dict[str, Any]) -> Any:
    simsimd = importlib.import_module("simsimd")
    x = inputs["x"]
    # On little data its threads cost a thousand times the work.
    threads = inputs["num_threads"] if x.nbytes >= 1 << 20 else 1
    return lambda: simsimd.cdist(x, x, "sqeuclidean", threads=threads)


def _scipy_distances(inputs: dict[str, Any]) -> Any:
    cdist = importlib.import_module("scipy.spatial.distance").cdist
    return lambda: cdist(inputs["x"], inputs["x"], "sqeuclidean")


def _torch_distances(inputs: dict[str, Any]) -> Any:
    x = _torch(inputs["x"])
    cdist = sys.modules["torch"].cdist
    return lambda: cdist(x, x) ** 2


def _numpy_trimmed_mean(inputs: dict[str, Any]) -> Any:
    x, f = inputs["x"], inputs["f"]
    return np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)


def _torch_trimmed_mean(inputs: dict[str, Any]) -> Any:
    x, f = _torch(inputs["x"]), inputs["f"]
    return lambda: x.sort(dim=0).values[f : len(x) - f].mean(dim=0)


def _torch_median(inputs: dict[str, Any]) -> Any:
    x = _torch(inputs["x"])
    return lambda: x.median(dim=0).values


def _torch_mean(inputs: dict[str, Any]) -> Any:
    x = _torch(inputs["x"])
    return lambda: x.mean(dim=0)


def _numpy_combine(inputs: dict[str, Any]) -> Any:
    x, weights = inputs["x"], inputs["weights"].astype(inputs["x"].dtype)
    return lambda: weights @ x


def _torch_combine(inputs: dict[str, Any]) -> Any:
    x = _torch(inputs["x"])
    weights = _torch(inputs["weights"]).to(x.dtype)
    return lambda: weights @ x


@prepared
def recompute(inputs: dict[str, Any]) -> Any:
    """All distances anew, where one vector has changed: fastgd against itself."""
    robust = importlib.import_module("fastgd.robust")
    return lambda: robust.pairwise_sqdist(inputs["x"], num_threads=inputs["num_threads"])


def numpy_simhash(inputs: dict[str, Any]) -> Any:
    """256 planes of random signs, made and multiplied block by block of coordinates."""
    x, rng = inputs["x"], np.random.default_rng(0)
    projections: np.ndarray = np.zeros((len(x), 256), np.float32)
    for start in range(0, x.shape[1], 8192):
        block = x[:, start : start + 8192]
        signs = np.unpackbits(rng.integers(0, 256, (block.shape[1], 32), np.uint8), axis=1)
        projections += block @ (signs.astype(np.float32) * 2.0 - 1.0)
    return np.packbits(projections > 0.0, axis=1, bitorder="little")


def numpy_hamming(inputs: dict[str, Any]) -> Any:
    """Bits counted 64 at a time, one hash against all others."""
    x = inputs["x"].view(np.uint64)
    return np.stack([np.bitwise_count(row ^ x).sum(axis=1, dtype=np.int64) for row in x])


def _f(inputs: dict[str, Any]) -> tuple[Any, ...]:
    return (inputs["f"],)


def _share(inputs: dict[str, Any]) -> tuple[Any, ...]:
    # A hair above f / n, so that rounding cannot make int(p n) one less than f.
    return (inputs["f"] / len(inputs["x"]) + 1e-9,)


#: operation -> name -> peer. Those in LAYERED take lists of layers, those in TORCH take torch tensors of any dtype.
PEERS: dict[str, dict[str, Peer]] = {
    "pairwise_sqdist": {"simsimd": prepared(_simsimd_distances), "torch": prepared(_torch_distances),
                        "scipy": prepared(_scipy_distances),
                        "flwr-new": prepared(_flwr_new_distances)},
    "krum": {**_byzfl_pair("Krum", _f), "flwr": _flwr_peer("aggregate_krum", lambda inputs: (inputs["f"], 0)),
             "flwr-new": prepared(_flwr_new_krum)},
    "multikrum": {**_byzfl_pair("MultiKrum", _f),
                  "flwr": _flwr_peer("aggregate_krum", lambda inputs: (inputs["f"], inputs["m"])),
                  "flwr-new": prepared(_flwr_new_multikrum)},
    "trimmed_mean": {**_byzfl_pair("TrMean", _f),
                     "flwr": _flwr_peer("aggregate_trimmed_avg", _share),
                     "numpy": _numpy_trimmed_mean, "torch": prepared(_torch_trimmed_mean)},
    "median": {**_byzfl_pair("Median"), "flwr": _flwr_peer("aggregate_median"),
               "numpy": lambda inputs: np.median(inputs["x"], axis=0), "torch": prepared(_torch_median)},
    "mean": {**_byzfl_pair("Average"), "flwr": _flwr_peer("aggregate"),
             "numpy": lambda inputs: inputs["x"].mean(axis=0), "torch": prepared(_torch_mean)},
    "combine": {"numpy": prepared(_numpy_combine), "torch": prepared(_torch_combine)},
    "meamed": _byzfl_pair("Meamed", _f),
    "bulyan": {"flwr": prepared(_flwr_bulyan), "flwr-new": prepared(_flwr_new_bulyan)},
    "nnm": _byzfl_pair("NNM", _f, "preaggregators"),
    "nnm_krum": {"byzfl": _byzfl_nnm_krum(False), "byzfl-torch": _byzfl_nnm_krum(True)},
    "geometric_median": _byzfl_pair("GeometricMedian"),
}
LAYERED = ("flwr",)
TORCH = ("byzfl-torch", "torch")

#: Where a call takes more than about 10 s or 4 GB: (operation, peer) -> (n * n * d from which it is left out, why).
TOO_MUCH: dict[tuple[str, str], tuple[float, str]] = {
    ("krum", "flwr"): (5e9, "a Python loop over all pairs takes more than 10 s"),
    ("multikrum", "flwr"): (5e9, "a Python loop over all pairs takes more than 10 s"),
    ("krum", "byzfl"): (1e10, "takes more than 10 s"),
    ("multikrum", "byzfl"): (1e10, "takes more than 10 s"),
    ("pairwise_sqdist", "scipy"): (1e10, "takes more than 10 s"),
    ("trimmed_mean", "byzfl-torch"): (2e10, "takes more than 10 s"),
    ("median", "byzfl-torch"): (4e9, "takes more than 4 GB"),
    ("bulyan", "flwr"): (1e9, "a Python loop over all pairs for every selection takes more than 10 s"),
}


def _lacks_memory(operation: str, name: str, n: int, d: int) -> bool:
    """ByzFL's mixing gathers all neighbours of all vectors in one array."""
    needed = 1.3 * n * (n - n // 5) * d * 4 if operation.startswith("nnm") and name.startswith("byzfl") else 0
    return needed > os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peers_for(operation: str, n: int, d: int, dtype: str, form: str) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can do an operation on such an input, and why the others are left out."""
    chosen, left_out = {}, {}
    for name, peer in PEERS[operation].items():
        limit, why = TOO_MUCH.get((operation, name), (float("inf"), ""))
        if form == "layers" and name not in LAYERED:
            left_out[name] = "takes no list of layers"
        elif dtype == "bfloat16" and name not in TORCH:
            left_out[name] = "has no bfloat16"
        elif n * n * d >= limit:
            left_out[name] = why
        elif _lacks_memory(operation, name, n, d):
            left_out[name] = "needs more memory than is free"
        else:
            chosen[name] = peer
    return chosen, left_out
