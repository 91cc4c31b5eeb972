"""`fastgd.optim.federated`: forms and dtypes of arrays, `out=`, threads, hostile values, errors, dispatch."""

from __future__ import annotations

import numpy as np
import pytest

import fastgd
from fastgd import robust
from fastgd._rows import parse
from fastgd.optim import federated
from fastgd.optim.federated import br_mtrl_round, cpu, fedsvd_refactor, firm_weights, pfedsop_step, reference

SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 127, 128, 129, 257, 1009, cpu.BLOCK - 1, cpu.BLOCK, cpu.BLOCK + 1, 2 * cpu.BLOCK + 131)
DTYPES = ("float16", "float32", "float64", "bfloat16")
EPS = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-8}


def vectors(n: int, d: int, dtype: str, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d))
    if dtype == "bfloat16":
        return x.astype(pytest.importorskip("ml_dtypes").bfloat16)
    return x.astype(dtype)


def split(vector: np.ndarray) -> list[np.ndarray]:
    """A vector as ragged layers: a scalar one, a matrix, an empty one, the rest."""
    if vector.size < 8:
        return [vector]
    return [vector[:1].reshape(()), vector[1:7].reshape(2, 3), vector[7:7], vector[7:]]


# --------------------------------------------------------------------------------------- kernels against the oracle


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", SIZES)
def test_kernels_agree_with_the_reference(d, dtype):
    for n in (1, 3, 5):
        rows = parse(vectors(n, d, dtype))
        got, expected = cpu.gram(rows, 1), reference.gram(rows)
        size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert (np.abs(got - expected) <= 1e-14 * size).all() and got.tobytes() == got.T.copy().tobytes()
    rows = parse(vectors(3, d, dtype, 1))
    stacks = rows.empty(1), rows.empty(1)
    cpu.step(rows, 0.3, -1.7, stacks[0], 1)
    reference.step(rows, 0.3, -1.7, stacks[1], 1)
    x, y, z = rows.matrix()
    for stack in stacks:
        wide = parse([rows.wrap(stack[0][0])]).matrix()[0]
        assert (np.abs(wide - (x - (0.3 * y - 1.7 * z))) <= 2 * EPS[dtype] * (np.abs(x) + np.abs(y) + 2 * np.abs(z))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_every_number_of_threads(dtype):
    x = vectors(3, 1_200_000, dtype)
    one, info = pfedsop_step(*x, return_info=True, num_threads=1)
    weights = firm_weights(x, 0.1, num_threads=1)
    for threads in (2, 3):
        other, other_info = pfedsop_step(*x, return_info=True, num_threads=threads)
        assert one.tobytes() == other.tobytes() and info == other_info
        assert firm_weights(x, 0.1, num_threads=threads).tobytes() == weights.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 8, 1000])
def test_layers_are_the_whole_vector(d, dtype, backend):
    x = vectors(3, d, dtype)
    whole = pfedsop_step(*x, backend=backend)
    layers = pfedsop_step(*(split(row) for row in x), backend=backend)
    assert [layer.shape for layer in layers] == [layer.shape for layer in split(x[0])]
    assert all(layer.dtype == x.dtype for layer in layers)
    got = np.concatenate([layer.ravel() for layer in layers]).astype(float)
    np.testing.assert_allclose(got, whole.astype(float), rtol=4 * EPS[dtype], atol=2 * EPS[dtype])
    one, other = firm_weights(x, 0.1, backend=backend), firm_weights([split(row) for row in x], 0.1, backend=backend)
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_mixed_dtypes_of_layers():
    x = [[np.float32([1, 2]), np.float64([3])], [np.float32([1, 0]), np.float64([0])], [np.float32([0, 0]), np.float64([1])]]
    moved = pfedsop_step(*x)
    assert [layer.dtype for layer in moved] == [np.float32, np.float64]


def test_strided_and_read_only_arrays():
    x = vectors(6, 40, "float64")[::2, ::-3]
    x.flags.writeable = False
    np.testing.assert_array_equal(pfedsop_step(*x), pfedsop_step(*x.copy()))
    np.testing.assert_array_equal(firm_weights(x, 0.1), firm_weights(x.copy(), 0.1))
    one, other = fedsvd_refactor(x.T, x), fedsvd_refactor(x.T.copy(), x.copy())
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def test_arguments_are_not_written_to():
    x = vectors(3, 500, "float32")
    kept = x.copy()
    pfedsop_step(*x)
    firm_weights(x, 1.0)
    br_mtrl_round(x, rule="krum", f=0, reference=x[0], step_size=0.5)
    fedsvd_refactor(x.T, x @ x.T)
    assert x.tobytes() == kept.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_torch_tensors(dtype):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(vectors(3, 300, "float32")).to(getattr(torch, dtype))
    moved = pfedsop_step(*x)
    assert isinstance(moved, torch.Tensor) and moved.dtype == x.dtype
    wide = pfedsop_step(*x.double().numpy())
    assert np.abs(moved.double().numpy() - wide).max() <= 4 * EPS[dtype] * np.abs(wide).max()
    np.testing.assert_allclose(firm_weights(x, 0.5), firm_weights(x.double().numpy(), 0.5), rtol=1e-12)
    b, a = fedsvd_refactor(x.T, x)
    assert b.dtype == a.dtype == x.dtype and tuple(b.shape) == (300, 3)
    assert torch.equal(br_mtrl_round(x, rule="krum", f=0), x[int(robust.krum(x, 0, return_info=True)[1].selected[0])])


# -------------------------------------------------------------------------------------------------------------- out


@pytest.mark.parametrize("dtype", DTYPES)
def test_pfedsop_out_may_be_an_argument(dtype, backend):
    x = vectors(3, 1000, dtype)
    expected = pfedsop_step(*x, backend=backend)
    for k in range(3):
        y = x.copy()
        assert pfedsop_step(*y, out=y[k], backend=backend) is not None
        assert y[k].tobytes() == expected.tobytes()
        others = [i for i in range(3) if i != k]
        assert y[others].tobytes() == x[others].tobytes()


def test_pfedsop_out_that_overlaps_askew():
    memory = vectors(1, 1100, "float64")[0]
    own, other = vectors(2, 1000, "float64", 1)
    for shift in (1, 3, 100):
        y = memory.copy()
        expected = pfedsop_step(y[:1000], own, other)
        result = y[shift : shift + 1000]
        pfedsop_step(y[:1000], own, other, out=result)
        assert result.tobytes() == expected.tobytes()


def test_pfedsop_out_of_layers(backend):
    x = [split(row) for row in vectors(3, 50, "float32")]
    expected = pfedsop_step(*x, backend=backend)
    out = [np.full_like(layer, np.nan) for layer in x[0]]
    assert pfedsop_step(*x, out=out, backend=backend) is out
    assert pfedsop_step(*x, out=x[0], backend=backend) is x[0]
    for got, same, layer in zip(out, x[0], expected, strict=True):
        assert got.tobytes() == same.tobytes() == layer.tobytes()


def test_pfedsop_out_may_swap_layers():
    """Equal shapes in another order: each layer of the result lands on an argument that is still to be read."""
    x = [list(row) for row in vectors(6, 100, "float64").reshape(3, 2, 100)]
    expected = pfedsop_step(*x)
    pfedsop_step(*x, out=x[1][::-1])
    assert x[1][1].tobytes() == expected[0].tobytes() and x[1][0].tobytes() == expected[1].tobytes()


def test_out_of_the_others():
    g = vectors(3, 40, "float64")
    out = np.empty(3)
    assert firm_weights(g, 0.5, out=out) is out and out.tobytes() == firm_weights(g, 0.5).tobytes()
    b, a = vectors(9, 3, "float64"), vectors(3, 7, "float64")
    expected = fedsvd_refactor(b, a)
    pair = fedsvd_refactor(b, a, out=(b, a))
    assert pair[0] is b and pair[1] is a
    assert b.tobytes() == expected[0].tobytes() and a.tobytes() == expected[1].tobytes()


# ---------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_are_named_and_nothing_is_written(bad, backend):
    x = vectors(3, 20, "float32")
    for k, name in ((1, "local_update"), (2, "global_update")):
        y = x.copy()
        y[k, 7] = bad
        out = np.full(20, 7.0, np.float32)
        with pytest.raises(ValueError, match=f"{name} has a NaN or an Inf"):
            pfedsop_step(*y, out=out, backend=backend)
        assert (out == 7.0).all()
    y = x.copy()
    y[0, 7] = bad
    moved = pfedsop_step(*y, backend=backend)
    assert not np.isfinite(moved[7]) and np.isfinite(np.delete(moved, 7)).all()
    y[2, 3] = bad
    with pytest.raises(ValueError, match="rows 0, 2 of gradients have a NaN"):
        firm_weights(y, 0.1, backend=backend)
    for b, a in ((y.T, x), (x.T, y)):
        with pytest.raises(ValueError, match="holds a NaN or an Inf"):
            fedsvd_refactor(b, a)
    with pytest.raises(ValueError, match="reference holds"):
        br_mtrl_round(x, rule="krum", f=0, reference=y[0], step_size=0.5)


def test_huge_float32_values_are_ordinary(backend):
    x = np.float32([[1, 2], [1e38, 1e38], [-3e38, 1e30]])
    moved, info = pfedsop_step(*x, return_info=True, backend=backend)
    np.testing.assert_allclose(moved, [1, 2], rtol=1e-6)
    assert -1 <= info.cosine <= 1 and np.isfinite(info.sqnorm)
    weights = firm_weights(x, 0.0, backend=backend)
    assert weights[0] == pytest.approx(1.0)


def test_fedsvd_of_huge_and_tiny_factors():
    b, a = vectors(6, 2, "float64"), vectors(2, 5, "float64")
    expected = fedsvd_refactor(b, a)
    for scale_b, scale_a in ((1e200, 1e-190), (1e-250, 1e240), (1e300, 1e-300), (1e-160, 1e-160)):
        new_b, new_a = fedsvd_refactor(scale_b * b, scale_a * a)
        np.testing.assert_allclose(new_a, expected[1], atol=1e-13)
        np.testing.assert_allclose(new_b, (scale_b * scale_a) * expected[0], rtol=1e-12, atol=1e-300)
    for wide, dtype in ((1e200, "float64"), (1e30, "float32"), (1e4, "float16")):
        out = np.full((6, 2), 7, dtype), np.full((2, 5), 7, dtype)
        with pytest.raises(ValueError, match=f"overflow {dtype}"):
            fedsvd_refactor((wide * b).astype(dtype), (wide * a).astype(dtype), out=out)
        assert (out[0] == 7).all() and (out[1] == 7).all()


def test_overflow_of_float64_says_so(backend):
    x = np.array([[1e200, 1.0], [1.0, 1e200], [1.0, 1.0]])
    with pytest.raises(ValueError, match="gradients overflow float64: scale"):
        firm_weights(x, 0.0, backend=backend)
    with pytest.raises(ValueError, match="local_update and global_update overflow float64"):
        pfedsop_step(*x, backend=backend)


# ------------------------------------------------------------------------------------------------------------ errors

X = np.ones((3, 4))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pfedsop_step(X[0], X[1], X[2, :3]), ValueError, r"global_update\)\[2\] is float64 \(3,\)"),
        (lambda: pfedsop_step(X[0], X[1].astype("f4"), X[2]), ValueError, r"\[1\] is float32"),
        (lambda: pfedsop_step(X[0], [X[1]], X[2]), TypeError, "local_update"),
        (lambda: pfedsop_step([X[0]], [X[1]], X[2]), ValueError, "sequence of 1 layers"),
        (lambda: pfedsop_step(*X.astype(int)), TypeError, "int64"),
        (lambda: pfedsop_step(*X, rho=0), ValueError, "rho must be a finite number above 0, got 0"),
        (lambda: pfedsop_step(*X, rho=-1.0), ValueError, "rho"),
        (lambda: pfedsop_step(*X, rho="1"), TypeError, "rho"),
        (lambda: pfedsop_step(*X, sharpness=-0.1), ValueError, "sharpness must be a finite number of at least 0"),
        (lambda: pfedsop_step(*X, step_size=np.nan), ValueError, "step_size must be a finite number, got nan"),
        (lambda: pfedsop_step(*X, out=np.empty(3)), ValueError, r"out is float64 \(3,\)"),
        (lambda: pfedsop_step(*X, num_threads=0), ValueError, "num_threads"),
        (lambda: pfedsop_step(*X, backend="gpu"), ValueError, "backend"),
        (lambda: pfedsop_step(*X, backend="cuda"), fastgd.BackendError, "no cuda kernel"),
        (lambda: firm_weights([], 0.1), ValueError, "gradients is empty"),
        (lambda: firm_weights(X[0], 0.1), ValueError, r"gradients has shape \(4,\)"),
        (lambda: firm_weights(X, -0.1), ValueError, "beta must be a finite number of at least 0"),
        (lambda: firm_weights(X, np.inf), ValueError, "beta"),
        (lambda: firm_weights(X, None), TypeError, "beta"),
        (lambda: firm_weights(X, 1, preference=[1, 2]), ValueError, r"preference must be \(3,\)"),
        (lambda: firm_weights(X, 1, preference=[1, 2, -1]), ValueError, "preference"),
        (lambda: firm_weights(X, 1, preference=[0, 0, 0]), ValueError, "at least one of them positive"),
        (lambda: firm_weights(X, 1, preference=[1, 2, np.nan]), ValueError, "preference"),
        (lambda: firm_weights(X, 1, preference=["a", 1, 2]), TypeError, "preference"),
        (lambda: firm_weights(X, 1, out=np.empty(4)), ValueError, "out"),
        (lambda: firm_weights(X, 1, out=[0, 0, 0]), TypeError, "out"),
        (lambda: fedsvd_refactor(X.T, X[:2]), ValueError, r"must be \(m, r\) and \(r, n\)"),
        (lambda: fedsvd_refactor(X.T, X.astype("f4")), ValueError, "of one dtype"),
        (lambda: fedsvd_refactor(X[0], X), ValueError, "b has shape"),
        (lambda: fedsvd_refactor(X, X.T), ValueError, "r must be from 1 to min"),
        (lambda: fedsvd_refactor(X[:, :0], X[:0]), ValueError, "r must be from 1"),
        (lambda: fedsvd_refactor(X.T, X, rank=4), ValueError, "rank must be an integer from 1 to 3"),
        (lambda: fedsvd_refactor(X.T, X, rank=0), ValueError, "rank"),
        (lambda: fedsvd_refactor(X.T, X, rank=1.0), TypeError, "rank"),
        (lambda: fedsvd_refactor(X.T, X, out=np.empty(3)), ValueError, "out must be a pair"),
        (lambda: fedsvd_refactor(X.T, X, out=(np.empty((4, 3)), np.empty((4, 3)))), ValueError, r"out\[1\]"),
        (lambda: fedsvd_refactor([[1.0]], X), TypeError, "b must be"),
        (lambda: br_mtrl_round(X, rule="mean"), ValueError, "rule must be one of geometric_median, krum"),
        (lambda: br_mtrl_round(X, rule="krum"), ValueError, "needs f="),
        (lambda: br_mtrl_round(X, rule="krum", f=1), ValueError, "n >= 2 f"),
        (lambda: br_mtrl_round(X, rule="krum", f=0, weights=[1, 1, 1]), ValueError, "weights are not used"),
        (lambda: br_mtrl_round(X, f=1), ValueError, "f is not used"),
        (lambda: br_mtrl_round(X, step_size=0.5), ValueError, "reference must be given"),
        (lambda: br_mtrl_round(X, step_size=np.inf), ValueError, "step_size"),
        (lambda: br_mtrl_round(X, rule="krum", f=0, reference=X[0, :2]), ValueError, r"reference\)\[1\]"),
        (lambda: br_mtrl_round(X, rule="krum", f=0, out=np.empty(3)), ValueError, "out"),
        (lambda: br_mtrl_round(3.0), TypeError, "representations"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ------------------------------------------------------------------------------------------------------- dispatch


def test_backends_agree():
    x = vectors(3, 2000, "float32")
    (one, info), (other, other_info) = (pfedsop_step(*x, return_info=True, backend=name) for name in ("cpu", "reference"))
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(info, other_info, rtol=1e-12)


def test_explain():
    text = fastgd.explain(pfedsop_step, *X)
    assert "optim.gram" in text and "optim.step" in text and "no cuda kernel for optim.gram" in text
    with fastgd.use(backend="reference"):
        assert "reference  chosen" in fastgd.explain(firm_weights, X, 0.1)


def test_info_fields():
    assert federated.PFedSOPInfo._fields == ("cosine", "angle", "beta", "sqnorm", "scale")
    assert federated.FIRMInfo._fields == ("gram", "residual", "status", "iterations")


def test_many_objectives_say_how_many_systems_were_solved():
    few, many = (firm_weights(vectors(m, 30, "float64"), 1.0, return_info=True)[1].iterations for m in (8, 9))
    assert few == 0 and many >= 8
