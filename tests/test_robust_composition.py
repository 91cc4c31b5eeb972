"""aggregate: pre-aggregations and a rule in one call, against the separate calls."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import robust_oracle as oracle
from robust_oracle import DTYPES, bits, flat_vector, make

from fastgd import robust
from fastgd.robust.composition import RULES, mixed_sqdist

nan, inf = np.nan, np.inf
N, F = 13, 2
OPTIONS = {"monna": {"trusted": 5}, "centered_clip": {"radius": 20.0, "iterations": 2}, "multikrum": {"m": 4}}
PRE = [(), ("nnm",), ("arc",), ("arc", "nnm"), ("nnm", "arc"), ("nnm", "nnm")]
KINDS = {
    "plain": lambda x: None,
    "bad": lambda x: (x[0].fill(nan), x[-1].put(5, inf)),
    "huge": lambda x: (x[0].fill(1e38), x[1].fill(-1e38)),
    "far and bad": lambda x: (x[0].fill(3e38), x[7].put(2, nan)),
    "close and far": lambda x: (x[3].fill(1e20), x[4].put(range(300), 1e20 + 1e10 * x[4, :300])),
}


def vectors(kind: str, dtype: str, d: int = 300) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((N, d))
    KINDS[kind](x)
    return x.astype(dtype)


def separately(x, rule: str, pre: tuple[str, ...], **kwargs):
    for name in pre:
        x = getattr(robust, name)(x, F, **kwargs)
    f = () if rule in ("median", "mean", "geometric_median", "centered_clip") else (F,)
    return getattr(robust, rule)(x, *f, **OPTIONS.get(rule, {}), **kwargs)


@pytest.mark.parametrize("pre", PRE, ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", [rule for rule in RULES if hasattr(robust, rule) and rule != "mean"])
def test_equal_to_the_separate_calls(rule: str, kind: str, pre: tuple[str, ...]) -> None:
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6)):
        x = vectors(kind, dtype)
        expected = separately(x, rule, pre)
        for return_info in (False, True):
            got = robust.aggregate(x, F, rule=rule, pre=pre, return_info=return_info, **OPTIONS.get(rule, {}))
            got, info = got if return_info else (got, None)
            assert got.dtype == x.dtype
            assert np.abs(got - expected).max() <= tolerance * max(1.0, np.abs(expected).max())
            if info is not None:
                assert info.bad_rows.tolist() == (~np.isfinite(x).all(axis=1)).tolist()
                if info.weights is not None:
                    assert (info.weights[info.bad_rows] == 0.0).all()
                    np.testing.assert_allclose(robust.combine(x, info.weights), got, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pre", PRE, ids="+".join)
def test_mean_of_mixed_vectors(pre: tuple[str, ...]) -> None:
    x = vectors("plain", "float64")
    np.testing.assert_allclose(robust.aggregate(x, F, rule="mean", pre=pre), separately(x, "mean", pre), rtol=1e-12, atol=1e-14)


def test_info_holds_the_choice() -> None:
    x = vectors("bad", "float64")
    mixed = robust.nnm(x, F)
    _, info = robust.aggregate(x, F, rule="krum", pre=("nnm",), return_info=True)
    assert info.selected.tolist() == robust.krum(mixed, F, return_info=True)[1].selected.tolist()
    _, info = robust.aggregate(x, F, rule="multikrum", m=3, pre=("nnm",), return_info=True)
    assert info.selected.tolist() == robust.multikrum(mixed, F, m=3, return_info=True)[1].selected.tolist()
    assert robust.aggregate(x, F, rule="median", pre=("nnm",), return_info=True)[1].weights is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ["krum", "median", "trimmed_mean"])
def test_mixing_gives_the_bits_of_the_separate_calls(rule: str, dtype: str) -> None:
    """The coordinate-wise rules see the same rounded blocks, and Krum's choice is one mixed vector."""
    x = make(np.random.default_rng(3).standard_normal((N, 5000)), dtype)
    assert bits(robust.aggregate(x, F, rule=rule, pre=("nnm",))) == bits(separately(x, rule, ("nnm",)))


@pytest.mark.parametrize("rule", ["krum", "bulyan", "median", "multikrum"])
@pytest.mark.parametrize("pre", [("nnm",), ("arc", "nnm")], ids="+".join)
def test_forms_threads_and_out(rule: str, pre: tuple[str, ...]) -> None:
    """Big enough for several threads and blocks; the same bits for stacked, listed and layered vectors."""
    x = np.random.default_rng(5).standard_normal((N, 150_000)).astype(np.float32)
    x[2] *= 100
    expected = robust.aggregate(x, F, rule=rule, pre=pre, num_threads=1)
    for threads in (1, 2, 3):
        assert bits(robust.aggregate(x, F, rule=rule, pre=pre, num_threads=threads)) == bits(expected)
        assert bits(robust.aggregate(list(x), F, rule=rule, pre=pre, num_threads=threads)) == bits(expected)
    layers = [[row[:90_000].reshape(300, 300), row[90_000:]] for row in x]
    got = robust.aggregate(layers, F, rule=rule, pre=pre)
    assert [part.shape for part in got] == [(300, 300), (60_000,)]
    np.testing.assert_allclose(flat_vector(got), expected, rtol=1e-6, atol=1e-7)
    out = np.empty(150_000, np.float32)
    assert robust.aggregate(x, F, rule=rule, pre=pre, out=out) is out and bits(out) == bits(expected)


@pytest.mark.parametrize("rule", ["krum", "median", "bulyan"])
def test_memory_does_not_grow_with_the_vectors(rule: str) -> None:
    """The n mixed vectors would take 32 MB."""
    x = np.random.default_rng(6).standard_normal((N, 600_000)).astype(np.float32)
    tracemalloc.start()
    robust.aggregate(x, F, rule=rule, pre=("arc", "nnm"), num_threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * x[0].nbytes + (4 << 20)


@pytest.mark.parametrize("seed", range(5))
def test_distances_of_mixed_vectors(seed: int) -> None:
    """I2, to 1e-12; equal rows of W are at distance 0, far vectors spoil nobody else's, infinite distances stay."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((20, 50))
    x[0], x[1] = 1e30, 1e160
    weights = np.zeros((20, 20))
    for i in range(20):
        weights[i, np.argsort(oracle.sqdist(x)[i], kind="stable")[:15]] = 1 / 15
    weights[5] = weights[6]
    got = mixed_sqdist(oracle.sqdist(x), weights)
    y = (weights.astype(np.longdouble) @ x.astype(np.longdouble))[2:]
    exact = np.stack([((y - row) ** 2).sum(axis=1) for row in y]).astype(float)
    np.testing.assert_allclose(got[2:, 2:], exact, rtol=1e-12, atol=1e-28)
    assert got[5, 6] == 0.0 and (np.diagonal(got) == 0).all() and (got == got.T).all()
    assert np.isposinf(got[1, 2:]).all() and not np.isnan(got).any()
    np.testing.assert_allclose(got[0, 2:], 50 * (1e30 / 15) ** 2, rtol=1e-12)


def test_arguments(backend: str) -> None:
    x = vectors("plain", "float64", 6)
    cases = [
        ({"rule": "average"}, "rule must be one of"), ({"pre": ("mnn",)}, "pre must be"), ({"pre": "nnm"}, "pre must be"),
        ({"m": 3}, "m is no option of krum"), ({"rule": "monna", "pre": ("nnm",)}, "trusted"),
        ({"rule": "median", "m": 3}, "none"), ({"rule": "multikrum", "m": 0, "pre": ("nnm",)}, "m must"),
        ({"rule": "monna", "trusted": -1, "pre": ("nnm",)}, "trusted"),
        ({"out": np.empty(7), "pre": ("nnm",)}, "out"), ({"rule": "centered_clip", "pre": ("nnm",)}, "radius"),
    ]
    for kwargs, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            robust.aggregate(x, F, backend=backend, **kwargs)
    for rule, f in (("krum", 6), ("bulyan", 3), ("mda", 7), ("trimmed_mean", 7), ("krum", 13), ("krum", -1)):
        with pytest.raises(ValueError, match=r"\bf\b"):
            robust.aggregate(x, f, rule=rule, pre=("nnm",), backend=backend)
    with pytest.raises(ValueError, match=r"arc needs n > 2 f"):
        robust.aggregate(x, 7, rule="median", pre=("arc",), backend=backend)


def test_more_than_f_bad_rows_are_named(backend: str) -> None:
    x = vectors("bad", "float32")
    x[4] = nan
    for pre in (("nnm",), ("arc",), ("arc", "nnm")):
        with pytest.raises(ValueError, match="rows 0, 4, 12 of x"):
            robust.aggregate(x, F, pre=pre, backend=backend)


@pytest.mark.parametrize("pre", [("nnm",), ("arc", "nnm")], ids="+".join)
@pytest.mark.parametrize("rule", ["krum", "multikrum", "median", "trimmed_mean", "bulyan", "mda", "smea", "caf"])
def test_break_table(rule: str, pre: tuple[str, ...], backend: str) -> None:
    for kind in KINDS:
        for dtype in ("float32", "float64"):
            x = vectors(kind, dtype) * np.float32(0.1) + np.float32(1.0)
            honest = [i for i in range(N) if np.isfinite(x[i]).all() and np.abs(x[i]).max() < 100]
            result = robust.aggregate(x, F, rule=rule, pre=pre, backend=backend)
            assert np.isfinite(result).all()
            # ARC leaves up to F vectors of the honest ones' length that point elsewhere; zero is one of them.
            assert np.linalg.norm(result - x[honest].mean(0)) < (2 if pre == ("nnm",) else 6)
