"""Worst cases and projections: symmetries, sizes, threads and instruction sets, dtypes, hostile values, bad input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

import fastgd
from fastgd import _threads, dro
from fastgd._native import lib

#: Every way to call `worst_case`, for losses of any scale s.
SETS: list[Any] = [
    {"radius": 0.3}, {"radius": 40.0}, {"radius": 0.0}, {"divergence": "kl", "radius": 0.2},
    {"divergence": "cvar", "alpha": 0.37}, {"divergence": 3.0, "radius": 0.3}, {"penalty": 0.7},
    {"divergence": "kl", "penalty": 0.3},
    {"divergence": "kl-cvar", "alpha": 0.2, "penalty": 0.3}, {"divergence": 1.5, "penalty": 0.3},
]
sets = pytest.mark.parametrize("options", SETS, ids=str)
KERNELS = [options for options in SETS if not isinstance(options.get("divergence"), float)]


def scaled(options: dict[str, Any], factor: float) -> dict[str, Any]:
    return {name: value * factor if name == "penalty" else value for name, value in options.items()}


def calls(z: np.ndarray, **options: Any) -> list[Any]:
    """All results of the C kernels on z."""
    results: list[Any] = [dro.worst_case(z, **case, **options) for case in KERNELS]
    results += [dro.project(z, radius=radius, floor=floor, **options) for radius in (0.2, 30.0) for floor in (0.0, 0.3)]
    return results + [dro.project(np.abs(z) + 0.01, radius=0.1, floor=floor, divergence="kl", **options) for floor in (0.0, 0.3)]


def bits(results: list[Any]) -> list[bytes]:
    return [b"".join(np.asarray(part).tobytes() for part in (result if isinstance(result, tuple) else (result,)))
            for result in results]


# -------------------------------------------------------------------------------------------------------- symmetries


@sets
def test_a_shift_changes_no_weight(options: dict[str, Any]) -> None:
    """Bit for bit where the shifted losses are exact; the value shifts with them."""
    z = np.random.default_rng(0).integers(0, 2**20, 300) / 2.0**10
    p, value = dro.worst_case(z, **options)
    for shift in (-5.0, 1e9, -1e9, -1024.0, 2.0**40):
        q, best = dro.worst_case(z + shift, **options)
        assert (q == p).all()
        assert abs(best - (value + shift)) <= 2e-15 * (abs(shift) + 1024)


@sets
@pytest.mark.parametrize("exponent", [-1060, -1000, -300, -1, 7, 500, 1003])
def test_powers_of_two_change_no_weight(options: dict[str, Any], exponent: int) -> None:
    z = np.random.default_rng(1).integers(-(2**20), 2**20, 200) * 2.0**0
    p, value = dro.worst_case(z, **scaled(options, 2.0**20))
    moved = np.ldexp(z, exponent)
    penalty = {"penalty": float(np.ldexp(options["penalty"] * 2.0**20, exponent))} if "penalty" in options else {}
    if penalty.get("penalty", 1.0) < 1e-305 or (isinstance(options.get("divergence"), float) and exponent < -1000):
        return  # the penalty, or half the range, is subnormal and not exact
    q, best = dro.worst_case(moved, **options | penalty)
    assert (q == p).all() or (isinstance(options.get("divergence"), float) and np.abs(q - p).max() <= 1e-15)
    assert abs(np.ldexp(best, -exponent) - value) <= 1e-12 * 2.0**20 + float(np.ldexp(1.0, -1074 - exponent))


@sets
def test_an_order_changes_no_weight_but_for_rounding(options: dict[str, Any], backend: str) -> None:
    z = np.random.default_rng(2).standard_normal(500)
    p, _ = dro.worst_case(z, **options, backend=backend)
    permutation = np.random.default_rng(3).permutation(500)
    q, _ = dro.worst_case(z[permutation], **options, backend=backend)
    assert np.abs(q - p[permutation]).max() <= 1e-14
    assert (np.diff(p[np.argsort(z)]) >= 0).all()  # larger losses weigh no less


@sets
def test_equal_losses_have_equal_weights(options: dict[str, Any], backend: str) -> None:
    z = np.random.default_rng(4).choice([1.0, 2.0, 3.0, -0.0, 0.0], 301)
    p, _ = dro.worst_case(z, **options, backend=backend)
    for value in np.unique(z):
        assert np.ptp(p[z == value]) == 0
    for n in (1, 2, 2049):
        p, value = dro.worst_case(np.full(n, -7.25), **options, backend=backend)
        assert np.abs(p - 1 / n).max() <= (1e-18 if backend == "reference" else 0)
        assert value == -7.25


# ------------------------------------------------------------------------------------------------ threads, clones, sizes


@pytest.fixture
def restored() -> Iterator[None]:
    level = lib.fgd_isa_current()
    yield
    lib.fgd_isa_use(level)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17, 2047, 2048, 2049, 70_001])
def test_threads_and_instruction_sets_change_no_bit(n: int, restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "PARALLEL_BYTES", 0)
    rng = np.random.default_rng(n)
    for z in (rng.standard_normal(n), np.exp(4 * rng.standard_normal(n)), rng.standard_normal(n).astype(np.float32)):
        known = bits(calls(z, num_threads=1))
        for threads in (2, 3):
            assert bits(calls(z, num_threads=threads)) == known
        for level in range(lib.fgd_isa_best() + 1):
            lib.fgd_isa_use(level)
            assert bits(calls(z, num_threads=1)) == known


@sets
@pytest.mark.parametrize("n", [2047, 2048, 2049, 40_000])
def test_blocks_agree_with_the_oracle(options: dict[str, Any], n: int) -> None:
    z = np.exp(np.random.default_rng(n).standard_normal(n))
    p, value = dro.worst_case(z, **options)
    if options.get("divergence") == "kl-cvar" and n > 3000:
        return  # the oracle goes through it in Python
    q, best = dro.worst_case(z, **options, backend="reference")
    assert np.abs(p - q).max() <= 1e-13
    assert abs(value - best) <= 1e-13 * z.max()


# ---------------------------------------------------------------------------------------------------- hostile values


@sets
@settings(max_examples=60, deadline=None)
@given(z=arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e307, 1e307)))
@example(z=np.array([-8.0, 2.0**-1022, *[0.0] * 10]))
@example(z=np.array([-1.0, 2.0**-1022, *[0.0] * 10]))
@example(z=np.array([-1.0, 2.0**-400, *[0.0] * 10]))
@example(z=np.array([-1e300, 1.0, 1.0 + 2.0**-52, *[0.0] * 10]))
@example(z=np.array([-2.0, 5e-324, *[0.0] * 10]))
def test_any_finite_losses(options: dict[str, Any], z: np.ndarray) -> None:
    """Weights are probabilities and the value lies among the losses, whatever these are."""
    p, value = dro.worst_case(z, **options)
    assert np.isfinite(p).all()
    assert p.min() >= 0
    assert abs(p.sum() - 1) <= 1e-12
    size = np.abs(z).max()
    assert z.min() - 1e-12 * size - 5e-324 <= value <= z.max() + 1e-12 * size
    if "penalty" not in options:
        assert abs(np.sum(p * (0.25 * z)) - 0.25 * value) <= 1e-12 * size + 1e-320


@settings(max_examples=60, deadline=None)
@given(w=arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e307, 1e307)),
       radius=st.floats(0, 1e3), floor=st.floats(0, 0.999))
def test_any_finite_weights(w: np.ndarray, radius: float, floor: float) -> None:
    n = len(w)
    for p in (dro.project(w, radius=radius, floor=floor),
              dro.project(np.maximum(np.abs(w), 5e-324), radius=radius, floor=floor, divergence="kl")):
        assert abs(p.sum() - 1) <= 1e-12
        assert p.min() >= floor / n
    p = dro.project(w, radius=radius, floor=floor)
    assert (n * (p @ p) - 1) / 2 <= radius * (1 + 1e-11) + 1e-14 * n


def test_scales_within_one_vector() -> None:
    """Two near the top are told apart however far away a third is."""
    for gap, far in ((1e-300, 1e300), (5e-324, 1.0), (1e-5, 1e300), (1.0, 1.7e308)):
        z = np.array([0.0, -gap, -far])
        for options in ({"radius": 0.5}, {"divergence": "kl", "radius": 0.7}):
            p, _ = dro.worst_case(z, **options)
            q, _ = dro.worst_case(z, **options, backend="reference")
            assert np.abs(p - q).max() <= 1e-13
            assert p[0] > p[1] + 0.1
    z = np.array([1.7e308, -1.7e308, 0.0])
    assert dro.worst_case(z, divergence="cvar", alpha=0.5)[1] == pytest.approx(1.7e308 / 1.5)
    assert dro.worst_case(z, radius=0.0)[1] == pytest.approx(0.0, abs=1e293)


@pytest.mark.parametrize("penalty", [1e-300, 1e-12, 1e12, 1e300])
def test_extreme_penalties(penalty: float) -> None:
    """A small penalty is none, a large one leaves the mean."""
    z = np.random.default_rng(5).standard_normal(100)
    for options in ({"divergence": "chi2"}, {"divergence": "kl"}, {"divergence": 1.5}, {"divergence": 3.0},
                    {"divergence": "kl-cvar", "alpha": 0.055}):
        p, value = dro.worst_case(z, penalty=penalty, **options)
        assert abs(p.sum() - 1) <= 1e-14
        least = dro.worst_case(z, divergence="cvar", alpha=0.055)[1] if "alpha" in options else z.max()
        assert abs(value - (least if penalty < 1 else z.mean())) <= 1e-8


def test_a_level_that_rounding_makes_one_element_more() -> None:
    """0.56 * 50 is 28.000000000000004: the 29th loss gets next to nothing. 0.8 * 5 is 4, 5 * (1 - 0.8) is not 1."""
    near = 1 + 1e-9 * np.array([0.0, 1.0, 2.0, 3.0, -1e9])
    for z, alpha, penalty in ((-np.exp(np.linspace(-15, 8, 50)), 0.56, 2.0), (near, 0.8, 0.01), (near * 1e200, 0.8, 1.0)):
        options = {"alpha": alpha, "penalty": penalty, "divergence": "kl-cvar"}
        p, value = dro.worst_case(z, **options)
        q, best = dro.worst_case(z, **options, backend="reference")
        assert np.abs(p - q).max() <= 1e-13
        assert abs(value - best) <= 1e-13 * np.abs(z).max()


def test_a_sum_that_outliers_do_not_spoil() -> None:
    rng = np.random.default_rng(6)
    z = np.append(rng.standard_normal(100_000), 1e6)
    for radius in (0.5, 1e3, 4e4):
        assert abs(dro.worst_case(z, radius=radius)[0].sum() - 1) <= 1e-13


# --------------------------------------------------------------------------------------------------- arrays, arguments


def test_dtypes_layouts_and_out() -> None:
    z = np.random.default_rng(7).standard_normal(5000)
    for options in KERNELS:
        for x in (z.astype(np.float32), z[::3], z[::-1]):
            p, value = dro.worst_case(x, **options)
            q, best = dro.worst_case(np.ascontiguousarray(x).astype(np.float64), **options)
            assert (p == q).all() and value == best and p.dtype == np.float64
        known, _ = dro.worst_case(z, **options)
        own = z.copy()
        p, _ = dro.worst_case(own, **options, out=own)
        assert p is own and (own == known).all()
        read_only = z.copy()
        read_only.flags.writeable = False
        assert (dro.worst_case(read_only, **options)[0] == known).all()
    own = np.abs(z) + 0.1
    known = dro.project(own, radius=0.1, floor=0.2, divergence="kl")
    assert (dro.project(own, radius=0.1, floor=0.2, divergence="kl", out=own) == known).all()


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    z = torch.arange(5, dtype=torch.float32) + 1
    p, value = dro.worst_case(z, radius=0.25)
    assert isinstance(p, torch.Tensor) and p.dtype == torch.float64 and value == pytest.approx(4)
    out = torch.empty(5, dtype=torch.float64)
    assert dro.project(z, radius=0.25, out=out) is out


def test_bad_losses_are_named_and_nothing_is_written() -> None:
    out = np.full(4, 9.0)
    for bad in (np.nan, np.inf, -np.inf):
        z = np.array([1.0, bad, 2.0, bad])
        for options in SETS:
            for backend in ("cpu", "reference"):
                with pytest.raises(ValueError, match=r"losses has a NaN or an Inf at 1, 3: remove"):
                    dro.worst_case(z, **options, out=out, backend=backend)
        with pytest.raises(ValueError, match="weights has a NaN or an Inf at 1, 3"):
            dro.project(z, radius=1, out=out)
    with pytest.raises(ValueError, match="weights must be above 0 for divergence 'kl', but is not at 0, 2"):
        dro.project(np.array([0.0, 1.0, -1.0]), radius=1, divergence="kl")
    assert (out == 9).all()


@pytest.mark.parametrize("options, error, message", [
    ({}, ValueError, "needs radius or penalty"), ({"radius": 1, "penalty": 1}, ValueError, "got radius and penalty"),
    ({"radius": -1}, ValueError, "radius must be a finite number of at least 0"), ({"radius": "1"}, TypeError, "radius"),
    ({"radius": np.inf}, ValueError, "radius"), ({"penalty": 0}, ValueError, "penalty must be a finite number above 0"),
    ({"radius": 1, "alpha": 0.5}, ValueError, "needs radius or penalty"),
    ({"divergence": "cvar"}, ValueError, "needs alpha"),
    ({"divergence": "cvar", "alpha": 0.5, "radius": 1}, ValueError, "needs alpha"),
    ({"divergence": "kl-cvar", "alpha": 0.5}, ValueError, "needs alpha and penalty"),
    ({"divergence": "kl-cvar", "alpha": 0.5, "penalty": 1, "radius": 1}, ValueError, "needs alpha and penalty"),
    ({"divergence": "cvar", "alpha": 0}, ValueError, "alpha"),
    ({"divergence": "cvar", "alpha": 1.5}, ValueError, "alpha must be at most 1"),
    ({"divergence": "tv", "radius": 1}, ValueError, "divergence must be one of chi2, kl"),
    ({"divergence": 1.0, "radius": 1}, ValueError, "divergence"), ({"divergence": None, "radius": 1}, TypeError, "divergence"),
    ({"radius": 1, "out": np.empty(3)}, ValueError, "out is float64"),
    ({"radius": 1, "num_threads": 0}, ValueError, "num_threads"),
    ({"radius": 1, "backend": "gpu"}, ValueError, "backend must be one of"),
])
def test_bad_parameters(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dro.worst_case(np.ones(4), **options)


def test_bad_arrays_and_projections() -> None:
    for bad in (np.ones((2, 2)), np.empty(0), np.array(1.0)):
        with pytest.raises(ValueError, match="losses must be one vector of at least one number"):
            dro.worst_case(bad, radius=1)
    for other in ([1.0, 2.0], np.arange(3)):
        with pytest.raises(TypeError, match="losses"):
            dro.worst_case(other, radius=1)
    halves = np.array([0.5, 1.0, 2.0], np.float16)  # taken as the float64 that they are
    assert dro.worst_case(halves, radius=0.1)[1] == dro.worst_case(halves.astype(np.float64), radius=0.1)[1]
    with pytest.raises(ValueError, match="floor must be below 1"):
        dro.project(np.ones(3), radius=1, floor=1)
    with pytest.raises(ValueError, match="divergence must be 'chi2' or 'kl'"):
        dro.project(np.ones(3), radius=1, divergence="cvar")


def test_explain() -> None:
    assert "dro.linear on a float64 array on cpu" in fastgd.explain(dro.worst_case, np.ones(3), radius=1)
