"""The room's benchmark cases, and its rows of the README.

A call is a batch of 256 draws or updates unless its name says otherwise, and the table has the time of each. Updates meet other
indices every time, as in use, so that their cache lines are cold. A sampler's steps are timed after so many others that its ball
binds and elements leave for the floor, and verified on a fresh one. The steps of gradient descent have themselves as peer, with
indices from NumPy's generator: what robustness costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import cycle
from typing import Any

import numpy as np

from .. import dro
from ..bench.case import Case, KernelFacts, prepared
from . import peers

BATCH = 256
_TURNS = 512  # batches of indices taken in turn
_RADIUS, _FLOOR = 1.0, 0.1
_LABELS = {10**3: "1000", 10**4: "1e4", 10**6: "1e6", 10**7: "1e7"}
_SIZES = {10**3: "tiny", 10**4: "small", 10**6: "medium", 10**7: "large"}

Inputs = dict[str, Any]


def _setup(n: int, batch: int, **extra: Any) -> Inputs:
    return {**_numbers(n, batch), "n": n, "batch": batch, "radius": _RADIUS, "floor": _FLOOR, "made": {}, **extra}


@lru_cache(maxsize=1)
def _numbers(n: int, batch: int) -> Inputs:
    """Weights, losses, and batches of indices with new weights; nothing writes to them."""
    rng = np.random.default_rng(20160719)
    return {"weights": rng.random(n), "losses": rng.random(n),
            "indices": [rng.integers(n, size=batch) for _ in range(_TURNS)],
            "values": [rng.random(batch) for _ in range(_TURNS)]}


def _made(inputs: Inputs, backend: str, make: Callable[[], Any]) -> tuple[Any, bool]:
    """What a backend works on, made on first use, and whether this is the first use: what it returns is then verified."""
    fresh = backend not in inputs["made"]
    if fresh:
        inputs["made"][backend] = make()
    return inputs["made"][backend], fresh


def _equal(result: Any, expected: Any) -> float:
    return 0.0 if np.array_equal(result, expected) else float("inf")


# ------------------------------------------------------------------------------------------------------------- tree


def _sample(inputs: Inputs, backend: str, num_threads: int) -> np.ndarray:
    tree, _ = _made(inputs, backend, lambda: dro.SumTree(inputs["weights"], backend=backend))
    index: np.ndarray = tree.sample(inputs["batch"])
    return index


def _expected_sample(inputs: Inputs) -> np.ndarray:
    return _sample({**inputs, "made": {}}, "reference", 1)


def _update(inputs: Inputs, backend: str, num_threads: int) -> float:
    def make() -> Any:
        pairs = cycle(zip(inputs["indices"], inputs["values"], strict=True))
        return dro.SumTree(inputs["weights"], backend=backend), pairs

    (tree, pairs), _ = _made(inputs, backend, make)
    tree.update(*next(pairs))
    return float(tree.total)


def _expected_update(inputs: Inputs) -> float:
    return _update({**inputs, "made": {}}, "reference", 1)


def _append(inputs: Inputs, backend: str, num_threads: int) -> float:
    tree, weights = dro.SumTree(inputs["weights"][:1], backend=backend), inputs["weights"]
    for lo in range(1, len(weights), BATCH):
        tree.append(weights[lo : lo + BATCH])
    return float(tree.total)


def _tree(operation: str, n: int, run: Any, reference: Any, other: dict[str, Any], batch: int = BATCH, **changes: Any) -> Case:
    fields: Inputs = {
        "room": "dro", "name": f"{operation}/{_LABELS[n]}", "size": _SIZES[n], "dtype": "float64",
        "params": {"n": n, "batch": batch}, "setup": partial(_setup, n, batch), "run": run, "reference": reference,
        "check": _equal, "nbytes": 8 * n, "flops": 0, "roof": "lines", "items": batch, "peers": other,
        "reference_s": n * 1e-6, "device_inputs": (),
    }
    return Case(**{**fields, **changes})


# ---------------------------------------------------------------------------------------------------------- sampler


def _sampler(inputs: Inputs, divergence: str, backend: str) -> Any:
    return dro.DROSampler(inputs["n"], radius=_RADIUS, divergence=divergence, floor=_FLOOR, step_size=inputs["step_size"],
                          backend=backend)


def _step(divergence: str, inputs: Inputs, backend: str, num_threads: int) -> Any:
    """A batch drawn and one projection. The first call returns the draws and the new probabilities, then runs in."""
    sampler, fresh = _made(inputs, backend, lambda: _sampler(inputs, divergence, backend))
    losses, batch = inputs["losses"], inputs["batch"]
    index = sampler.sample(batch)
    sampler.update(index, losses[index])
    if not fresh:
        return index
    p = sampler.probabilities()
    if backend != "reference":
        for _ in range(inputs["run_in"]):
            more = sampler.sample(batch)
            sampler.update(more, losses[more])
    return index, p


def _same_step(result: Any, expected: tuple[Callable[[], Any], np.ndarray]) -> float:
    """The reference draws other indices: it gets those that were drawn."""
    (index, p), (make, losses) = result, expected
    sampler = make()
    sampler.update(index, losses[index])
    return float(np.abs(p - sampler.probabilities()).max() * len(p) / 1e-11)


def _robust(divergence: str, n: int, batch: int = BATCH) -> Case:
    gain = {"chi2": 10.0 * batch / n**2, "kl": 2.0 * batch / n}[divergence]  # a loss of 1 makes an index ten times as likely
    setup = partial(_setup, n, batch, step_size=gain, run_in=2 * n // (50 * batch) + 64)
    return _tree(f"{divergence}{'_one' if batch == 1 else ''}", n, partial(_step, divergence),
                 lambda inputs: (partial(_sampler, inputs, divergence, "reference"), inputs["losses"]),
                 {"numpy": peers.numpy_chi2} if divergence == "chi2" else {}, batch, setup=setup, check=_same_step,
                 note="draws, losses, one projection", reference_s=n * 4e-6)


# ------------------------------------------------------------------------------------------------------- projections


def _close(result: Any, expected: Any) -> float:
    """Weights, n of them, each to 1e-12 of 1/n; they may be the first part of a result."""
    p, right = (part[0] if isinstance(part, tuple) else part for part in (result, expected))
    return float(np.abs(p - right).max() * len(right) / 1e-12)


def _set(operation: str, n: int, function: Callable[..., Any], other: dict[str, Any], label: str = "") -> Case:
    return _tree(operation, n, lambda inputs, backend, num_threads: function(inputs, backend=backend),
                 lambda inputs: function(inputs, backend="reference"), other, name=f"{operation}/{label}{_LABELS[n]}",
                 check=_close, nbytes=16 * n, roof="copy", items=0, params={"n": n}, reference_s=n * 4e-6,
                 setup=partial(_setup, n, BATCH, alpha=0.1))


def _sets(n: int) -> list[Case]:
    return [
        _set("project", n, lambda i, **k: dro.project(i["weights"], radius=_RADIUS, **k), {"numpy": peers.numpy_project}),
        _set("worst_case", n, lambda i, **k: dro.worst_case(i["losses"], radius=0.1, **k),
             {"numpy": lambda i: peers.numpy_worst_case({**i, "radius": 0.1})}),
        _set("worst_case", n, lambda i, **k: dro.worst_case(i["losses"], radius=0.1, divergence="kl", **k),
             {"scipy": lambda i: peers.scipy_worst_case({**i, "radius": 0.1})}, "kl-"),
        _set("worst_case", n, lambda i, **k: dro.worst_case(i["losses"], divergence="cvar", alpha=0.1, **k),
             {"numpy": peers.numpy_cvar}, "cvar-"),
    ]


# ------------------------------------------------------------------------------------------------- gradient descent


@lru_cache(maxsize=1)
def _examples(n: int, d: int, nonzeros: int) -> Inputs:
    """Rows with labels of either sign: normal, or sparse with so many positive entries a row, as of words in documents."""
    rng = np.random.default_rng(7)
    if not nonzeros:
        x: Any = rng.standard_normal((n, d))
    else:
        import scipy.sparse as sparse

        columns = np.sort((d * rng.random((n, nonzeros)) ** 3).astype(np.int32), axis=1)  # some words are in most documents
        values = rng.random(n * nonzeros) / np.sqrt(nonzeros / 3)
        x = sparse.csr_array((values, columns.ravel(), np.arange(0, n * nonzeros + 1, nonzeros, dtype=np.int32)), shape=(n, d))
        x.sum_duplicates()
    return {"x": x, "y": np.sign(x @ rng.standard_normal(d)) * np.where(rng.random(n) < 0.1, -1.0, 1.0)}


class _Logistic:
    """Logistic regression by stochastic gradients, in float64 as scikit-learn: one step is a gather of rows and two products."""

    def __init__(self, inputs: Inputs) -> None:
        self.x, self.y, self.w = inputs["x"], inputs["y"], np.zeros(inputs["x"].shape[1])

    def step(self, index: np.ndarray) -> np.ndarray:
        """w -= gradient / 10 on the rows drawn; returns their margins."""
        rows, signs = self.x[index], self.y[index]
        margins: np.ndarray = signs * (rows @ self.w)
        self.w -= 0.1 / len(index) * (rows.T @ (-signs / (1.0 + np.exp(margins))))
        return margins


@prepared
def _plain_steps(inputs: Inputs) -> Callable[[], Any]:
    """The same steps on indices drawn uniformly."""
    model, rng = _Logistic(inputs), np.random.default_rng(0)
    return lambda: model.step(rng.integers(0, inputs["n"], (inputs["batch"],)))


def _robust_steps(inputs: Inputs, backend: str, num_threads: int) -> Any:
    (model, sampler), _ = _made(inputs, backend, lambda: (_Logistic(inputs), _sampler(inputs, "chi2", backend)))
    index = sampler.sample(inputs["batch"])
    margins = model.step(index)
    sampler.update(index, np.log1p(np.exp(-margins)))
    return index, model.w


def _same_w(result: Any, expected: Inputs) -> float:
    """The same first step on the rows that were drawn, in another order of summation."""
    (index, w), model = result, _Logistic(expected)
    model.step(np.sort(index))
    return float(np.abs(w - model.w).max() / (1e-12 * np.abs(model.w).max()))


def _descent(label: str, n: int, d: int, nonzeros: int, batch: int = BATCH) -> Case:
    nbytes, steps = batch * (12 * nonzeros or 8 * d), 10 * n // batch
    gain = float(np.sqrt(2.0 * _RADIUS * _FLOOR * batch / (steps * float(n) ** 3)))  # of the theory, for ten passes
    return _tree("sgd", 10**6, _robust_steps, lambda inputs: inputs, {"plain": _plain_steps}, batch, name=f"sgd/{label}",
                 check=_same_w,
                 setup=lambda: {**_examples(n, d, nonzeros), "n": n, "batch": batch, "step_size": gain, "made": {}},
                 params={"n": n, "d": d, "nonzeros": nonzeros or d, "batch": batch}, nbytes=nbytes, items=0,
                 flops=4 * batch * (nonzeros or d), roof="read", reference_s=1.0, note="robust step; peer: a plain step",
                 default=n <= 10**5)


# ------------------------------------------------------------------------------------------------------------ calls


def _one_tree(inputs: Inputs, backend: str) -> Any:
    return _made(inputs, backend, lambda: dro.SumTree(inputs["weights"], backend=backend))[0]


def _find(inputs: Inputs, backend: str) -> list[int]:
    find, masses = _one_tree(inputs, backend).find, inputs["masses"]
    return [find(mass) for mass in masses]


def _update_one(inputs: Inputs, backend: str) -> float:
    tree = _one_tree(inputs, backend)
    update = tree.update
    for index, weight in inputs["pairs"]:
        update(index, weight)
    return float(tree.total)


def _sample_one(inputs: Inputs, backend: str) -> list[int]:
    sample = _one_tree(inputs, backend).sample
    return [sample(1)[0] for _ in inputs["masses"]]


def _call(operation: str, run: Callable[..., Any]) -> Case:
    """A hundred calls on one number each, from Python."""
    n = 1000
    masses = [float(mass) for mass in np.random.default_rng(1).random(100) * 300.0]
    pairs = [(int(1000 * mass / 300.0), mass / 300.0) for mass in masses]
    return _tree(operation, n, lambda inputs, backend, num_threads: run(inputs, backend),
                 lambda inputs: run({**inputs, "made": {}}, "reference"), {}, 1, roof="call", items=len(masses),
                 setup=partial(_setup, n, 1, masses=masses, pairs=pairs), note="calls from Python, one number each")


def _cases() -> list[Case]:
    cases = [_call("find", _find), _call("update_one", _update_one), _call("sample_one", _sample_one)]
    for n in _LABELS:
        cases += [_tree("sample", n, _sample, _expected_sample, peers.SAMPLE),
                  _tree("update", n, _update, _expected_update, peers.UPDATE),
                  _robust("chi2", n), _robust("kl", n), _robust("chi2", n, 1), _robust("kl", n, 1)]
    cases.append(_tree("append", 10**6, _append, lambda i: float(dro.SumTree(i["weights"], backend="reference").total), {},
                       items=10**6 - 1, nbytes=16 * 10**6, roof="copy", reference_s=1e4))
    return [*cases, *_sets(1000), *_sets(10**6), _descent("dense-4e4x1000", 40_000, 1000, 0),
            _descent("sparse-1e5x47000", 10**5, 47_000, 75), _descent("sparse-8e5x47000", 8 * 10**5, 47_000, 75)]


CASES: list[Case] = _cases()


def _fact(name: str, formula: str, cost: str, case: str = "", budget: str = "exact", deterministic: str = "yes",
          paper: str = "", dtypes: str = "f64") -> KernelFacts:
    return KernelFacts("dro", name, formula, cost, dtypes, deterministic, budget, case, paper)


KERNELS: list[KernelFacts] = [
    _fact("SumTree", "draws i ∝ w_i while w changes", "log₈ n cache lines a draw or update", "sample/1e6", "exact", "by seed"),
    _fact("DROSampler", "p ← Π_ball(p + step · loss / p), draws i ∝ p_i", "amortised O(log n) a drawn index", "chi2/1e6",
          "1e-11 / n", "by seed", "NIPS 2016"),
    _fact("worst_case", "max_p Σ p_i z_i over a ball, or less a penalty", "a few passes", "worst_case/1e6", "1e-12 / n",
          paper="NeurIPS 2020", dtypes="f32 f64"),
    _fact("project", "argmin ‖p - w‖² over a ball with floor", "a few passes", "project/1e6", "1e-12 / n", paper="JOTA 1986",
          dtypes="f32 f64"),
    _fact("allocate", "integers ∝ scores with an exact sum", "O(n log n)"),
    _fact("pacing", "how much of the data a curriculum shows at step t", "O(1)"),
    _fact("mlmc_estimate", "L(first) + Δ_J / P(J), its mean that of the largest batch", "4 calls of L", deterministic="by seed",
          paper="NeurIPS 2020"),
    _fact("group_weights", "q_g ← q_g exp(step · loss_g), normalised", "O(groups)", budget="1 ulp of exp", paper="ICLR 2020"),
    _fact("group_losses", "mean loss of each group", "1 pass", budget="n ulp", paper="ICLR 2020"),
    _fact("numba_functions", "the tree's draws and updates for a user's @njit code", "as SumTree, one at a time",
          deterministic="by seed"),
]
