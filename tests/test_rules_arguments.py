"""Arguments of every rule: wrong ones are named, odd but right ones change nothing, `out=` is honoured or untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from robust_oracle import DTYPES, bits, floats, make
from rules_calls import LIBRARIES, MIXES, NEW, RULES, inf, mixes, nan, new_rules, refuses

from fastgd import robust

pytestmark = pytest.mark.timeout(60)

X = np.random.default_rng(11).standard_normal((11, 4)).astype(np.float32)
X.flags.writeable = False
D = ((X[:, None].astype(float) - X.astype(float)) ** 2).sum(2)
ONE = [*NEW, *MIXES]
calls = pytest.mark.parametrize("call", [RULES[name].call if name in RULES else MIXES[name] for name in ONE], ids=ONE)

#: Every function that takes f, as a function of f alone, with 11 vectors.
TAKES_F = {
    "bulyan": lambda f: robust.bulyan(X, f),
    "meamed": lambda f: robust.meamed(X, f),
    "mda": lambda f: robust.mda(X, f),
    "smea": lambda f: robust.smea(X, f),
    "monna": lambda f: robust.monna(X, f, 0),
    "caf": lambda f: robust.caf(X, f),
    "nnm": lambda f: robust.nnm(X, f),
    "nnm_weights": lambda f: robust.nnm_weights(D, f),
    "arc": lambda f: robust.arc(X, f),
    "KrumState": lambda f: robust.KrumState(X, f),
}
takes_f = pytest.mark.parametrize("call", TAKES_F.values(), ids=TAKES_F)
NOT_INTEGERS = [1.0, 2.5, "2", b"2", [2], (2,), {}, 1j, np.float64(2), True, False, np.bool_(True), object(), nan, np.array([2])]
kinds = pytest.mark.parametrize("value", NOT_INTEGERS, ids=lambda value: repr(value)[:16])
NOT_LENGTHS = [nan, -1.0, 0.0, -inf, "1", b"1", None, [1.0], 1j, {}, object(), np.array([1.0, 2.0]), np.complex128(1)]
lengths = pytest.mark.parametrize("value", NOT_LENGTHS, ids=lambda value: repr(value)[:16])


# ------------------------------------------------------------------------------------------------------------ counts


@kinds
@takes_f
def test_f_must_be_an_integer(call, value: object) -> None:
    refuses("f", call, value)


@pytest.mark.parametrize("value", [-1, -(10**30), 11, 12, 10**30, None], ids=str)
@takes_f
def test_f_out_of_range(call, value: object) -> None:
    refuses("f", call, value)


def test_the_exact_limits_of_f() -> None:
    for f in range(4):
        for n in range(max(1, 2 * f - 1), 4 * f + 6):
            x = np.random.default_rng(n).standard_normal((n, 2))
            if n >= 4 * f + 3:
                robust.bulyan(x, f)
            else:
                message = refuses("f", robust.bulyan, x, f, kinds=(ValueError,))
                assert str(n) in message
            if n >= 2 * f + 3:
                robust.KrumState(x, f).select()
            else:
                refuses("f", robust.KrumState, x, f, kinds=(ValueError,))
            if n > 2 * f:
                for name in ("meamed", "mda", "smea", "caf", "nnm", "arc"):
                    getattr(robust, name)(x, f)
                robust.monna(x, f, n - 1)


@pytest.mark.parametrize("f", [np.int64(2), np.uint8(2), np.array(2)], ids=repr)
@takes_f
def test_integers_of_any_kind_are_f(call, f: Any) -> None:
    got, expected = call(f), call(2)
    if not isinstance(got, np.ndarray):
        got, expected = got.select(), expected.select()
    assert bits(got) == bits(expected)


@pytest.mark.parametrize("value", [*NOT_INTEGERS, None, -1, 11, 10**30], ids=lambda value: repr(value)[:16])
def test_trusted(value: object) -> None:
    refuses("trusted", robust.monna, X, 2, value)


@pytest.mark.parametrize("value", [*NOT_INTEGERS, None, -1, 0, -(10**30)], ids=lambda value: repr(value)[:16])
def test_bucket_size_and_bits(value: object) -> None:
    refuses("size", robust.bucketing, X, value)
    refuses("bits", robust.simhash, X, value)


@pytest.mark.parametrize("value", [*NOT_INTEGERS, None, -1, 2**64, 10**30], ids=lambda value: repr(value)[:16])
def test_seeds(value: object) -> None:
    refuses("seed", robust.bucketing, X, 2, seed=value)
    refuses("seed", robust.simhash, X, 8, seed=value)


def test_seeds_at_both_ends() -> None:
    for seed in (0, 2**64 - 1, np.uint64(2**64 - 1)):
        assert robust.bucketing(X, 2, seed=seed).shape == (6, 4)
        assert robust.simhash(X, 9, seed=seed).shape == (11, 2)


@pytest.mark.parametrize("value", [*NOT_INTEGERS, None, -1], ids=lambda value: repr(value)[:16])
def test_iteration_counts(value: object) -> None:
    refuses("iterations", robust.centered_clip, X, radius=1.0, iterations=value)
    refuses("max_iter", robust.geometric_median, X, max_iter=value)
    refuses("max_iter", robust.geometric_median_weights, D, max_iter=value)


# ----------------------------------------------------------------------------------------------------- real numbers


@lengths
def test_radius(value: object) -> None:
    refuses("radius", robust.clip, X, value)
    refuses("radius", robust.centered_clip, X, radius=value)


def test_radius_is_required() -> None:
    refuses("radius", robust.centered_clip, X)
    refuses("radius", robust.clip, X)
    refuses("takes", robust.centered_clip, X, 1.0)  # keyword-only


@pytest.mark.parametrize("value", [nan, -1.0, -inf, "1", b"1", None, [1.0], 1j, {}, object()], ids=lambda v: repr(v)[:16])
def test_smoothing_and_tolerance(value: object) -> None:
    for name in ("smoothing", "tol"):
        refuses(name, robust.geometric_median, X, **{name: value})
        refuses(name, robust.geometric_median_weights, D, **{name: value})


WRONG_WEIGHTS = {
    "short": np.ones(10),
    "long": np.ones(12),
    "2-D": np.ones((1, 11)),
    "0-D": np.float64(1.0),
    "negative": [1.0] * 10 + [-1e-9],
    "all zero": np.zeros(11),
    "NaN": [1.0] * 10 + [nan],
    "Inf": [1.0] * 10 + [inf],
    "complex": np.ones(11, complex),
    "text": ["1"] * 11,
    "objects": [object()] * 11,
    "a number": 1.0,
    "a word": "uniform",
    "masked": np.ma.masked_array(np.ones(11), mask=[True] + [False] * 10),
    "empty": [],
    "ragged": [[1.0], [1.0, 2.0]],
}


@pytest.mark.parametrize("weights", WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_weights(weights: object) -> None:
    refuses("weights", robust.geometric_median, X, weights=weights)
    refuses("weights", robust.geometric_median_weights, D, weights=weights)


def test_weights_that_are_fine() -> None:
    for weights in (list(range(11)), np.arange(11), np.arange(11, dtype=np.uint8), tuple(range(11)), np.arange(22.0)[::2]):
        np.testing.assert_allclose(robust.geometric_median(X, weights=weights),
                                   robust.geometric_median(X, weights=np.arange(11.0) / 55), rtol=1e-5)
    for scale in (1e-300, 1e300):
        np.testing.assert_allclose(robust.geometric_median(X, weights=np.full(11, scale)),
                                   robust.geometric_median(X), rtol=1e-6)


WRONG_STARTS = {
    "short": np.ones(3, np.float32),
    "long": np.ones(5, np.float32),
    "2-D": np.ones((1, 4), np.float32),
    "0-D": np.ones((), np.float32),
    "NaN": np.array([0, nan, 0, 0], np.float32),
    "Inf": np.array([0, 0, 0, -inf], np.float32),
    "a number": 0.0,
    "text": "median",
    "integers": np.zeros(4, int),
    "complex": np.zeros(4, complex),
    "empty": np.zeros(0, np.float32),
    "big-endian": np.zeros(4, ">f4"),
    "masked": np.ma.masked_array(np.zeros(4, np.float32), mask=[1, 0, 0, 0]),
}


@pytest.mark.parametrize("start", WRONG_STARTS.values(), ids=WRONG_STARTS)
def test_start(start: object) -> None:
    refuses("start", robust.centered_clip, X, radius=1.0, start=start)


def test_start_of_layers() -> None:
    layers = [[row[:1], row[1:].reshape(3, 1)] for row in X]
    good = [np.zeros(1, np.float32), np.zeros((3, 1), np.float32)]
    got = robust.centered_clip(layers, radius=1.0, start=good)
    expected = robust.centered_clip(X, radius=1.0, start=np.zeros(4, np.float32))
    assert b"".join(map(bits, got)) == bits(expected)
    for start in (good[:1], [good[1], good[0]], np.zeros(4, np.float32), [*good, good[0]]):
        refuses("start", robust.centered_clip, layers, radius=1.0, start=start)


# ------------------------------------------------------------------------------------------------------- the vectors

WRONG_X = {
    "None": None,
    "text": "abc",
    "number": 1.0,
    "dict": {0: X},
    "generator": (row for row in X),
    "empty list": [],
    "empty": np.ones((0, 3), np.float32),
    "1-D": np.ones(11, np.float32),
    "0-D": np.ones((), np.float32),
    "integers": np.ones((11, 4), int),
    "booleans": np.ones((11, 4), bool),
    "complex": np.ones((11, 4), np.complex64),
    "objects": np.ones((11, 4), object),
    "big-endian": X.astype(">f4"),
    "longdouble": X.astype(np.longdouble),
    "masked": np.ma.masked_array(X, mask=X > 1),
    "numbers": [1.0] * 11,
    "lists of numbers": [[1.0, 2.0]] * 11,
    "no layers": [[]] * 11,
    "different lengths": [X[0][: 2 + i % 2] for i in range(11)],
    "different dtypes": [X[0].astype(["f4", "f8"][i % 2]) for i in range(11)],
    "different layers": [[X[0]] * (1 + i % 2) for i in range(11)],
    "mismatched layers": [[X[0], X[0][: 1 + i // 10]] for i in range(11)],
    "layers and vectors": [X[0], [X[0]], *X[2:]],
}


@pytest.mark.parametrize("wrong", WRONG_X.values(), ids=WRONG_X)
@calls
def test_wrong_vectors(call, wrong: Any) -> None:
    refuses("x", call, wrong, 2)


@pytest.mark.parametrize("wrong", [value for key, value in WRONG_X.items() if key != "generator"],
                         ids=[key for key in WRONG_X if key != "generator"])
def test_wrong_vectors_of_hashes_and_states(wrong: Any) -> None:
    refuses("x", robust.simhash, wrong, 8)
    refuses("x", robust.KrumState, wrong, 2)


def test_torch_tensors_that_require_grad() -> None:
    torch = pytest.importorskip("torch")
    for name in ONE:
        call = RULES[name].call if name in RULES else MIXES[name]
        refuses("x", call, torch.ones(11, 4, requires_grad=True), 2)
        refuses("x", call, torch.ones(11, 4, dtype=torch.int64), 2)


@pytest.mark.parametrize("wrong", [D[:5], D[0], D.astype(np.float32), -D, np.where(D > 9, nan, D), np.ones((6, 6, 6)), D.tolist(),
                                   None, np.ones((0, 0))],
                         ids=["not square", "1-D", "float32", "negative", "NaN", "3-D", "list", "None", "empty"])
def test_wrong_distance_matrices(wrong: object) -> None:
    refuses("sqdist", robust.geometric_median_weights, wrong)
    refuses("sqdist", robust.nnm_weights, wrong, 2)


# ------------------------------------------------------------------------------------------------------------ hashes


@pytest.mark.parametrize("dtype", ["int8", "int64", "float32", "bool", "uint16", "complex64", "U1", "object"])
def test_hashes_are_uint8(dtype: str) -> None:
    wrong, right = np.zeros((3, 2), dtype), np.zeros((3, 2), np.uint8)
    refuses("a", robust.hamming, wrong, right)
    refuses("b", robust.hamming, right, wrong)
    refuses("a", robust.hamming, wrong[0], right[0])


def test_hash_shapes() -> None:
    ok = np.zeros((3, 2), np.uint8)
    for wrong in (None, "ab", b"ab", [1, 2], [[1, 2]], 5, np.zeros((), np.uint8), np.zeros((1, 3, 2), np.uint8)):
        refuses("a", robust.hamming, wrong, ok)
        refuses("b", robust.hamming, ok, wrong)
    for a, b in ((ok, np.zeros((3, 3), np.uint8)), (ok[0], np.zeros(3, np.uint8)), (ok, np.zeros((3, 0), np.uint8))):
        with pytest.raises(ValueError):
            robust.hamming(a, b)


# --------------------------------------------------------------------------------------------------------- the state


def test_krum_state_arguments() -> None:
    state = robust.KrumState(X, 2)
    before = bits(state.select())
    for row in (*NOT_INTEGERS, None, -1, 11, 10**30):
        refuses("row", state.update, row, X[0])
    for value in (None, 1.0, "a", X[0][:3], X[:1], X[0].astype(float), X[0].astype(int), X[0].astype(">f4"), [X[0]],
                  X[0].astype(complex), np.ma.masked_array(X[0], mask=[1, 0, 0, 0]), np.float32(1), []):
        refuses("value", state.update, 3, value)
    assert bits(state.select()) == before


def test_krum_state_layers_arguments() -> None:
    layers = [[row[:1], row[1:].reshape(3, 1)] for row in X]
    state = robust.KrumState(layers, 2)
    for value in (X[0], layers[0][:1], layers[0][::-1], [*layers[0], layers[0][0]], None):
        refuses("value", state.update, 3, value)


# ------------------------------------------------------------------------------------------- odd, but right, arrays

ODD = {
    "Fortran order": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "negative rows": lambda x: x[::-1].copy()[::-1],
    "negative columns": lambda x: x[:, ::-1].copy()[:, ::-1],
    "offset": lambda x: np.pad(x, ((1, 1), (1, 2)))[1:-1, 1:-2],
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "subclass": lambda x: x.view(type("Sub", (np.ndarray,), {})),
    "list": list,
    "tuple": tuple,
    "3-D": lambda x: x.reshape(len(x), -1, 1),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
@calls
def test_odd_arrays_give_the_same_bits(call, change, backend: str) -> None:
    for d in (4, 33):
        x = np.random.default_rng(d).standard_normal((11, d)).astype(np.float32)
        expected = call(x, 2, backend=backend)
        odd = change(x)
        got = call(odd, 2, backend=backend)
        assert bits(np.asarray(got)) == bits(expected)
        assert bits(np.asarray(odd).reshape(x.shape)) == bits(x)


@calls
def test_rounds_of_layers(call, backend: str) -> None:
    """Layers without dimensions and without elements are layers; mixed dtypes stay what they are."""
    x = np.random.default_rng(3).standard_normal((11, 30)).astype(np.float32)
    layers = [[row[:1].reshape(()), row[1:1], row[1:7].reshape(2, 1, 3), row[7:]] for row in x]
    got = call(layers, 2, backend=backend)
    expected = call(x, 2, backend=backend)
    for vector, row in zip([got], [expected], strict=True) if expected.ndim == 1 else zip(got, expected, strict=True):
        assert [part.shape for part in vector] == [(), (0,), (2, 1, 3), (23,)]
        assert all(type(part) is np.ndarray and part.dtype == np.float32 for part in vector)
        assert b"".join(map(bits, vector)) == bits(row)


@calls
def test_no_coordinates_at_all(call, backend: str) -> None:
    got = call(np.ones((11, 0), np.float32), 2, backend=backend)
    assert got.shape in ((0,), (11, 0), (6, 0)) and got.dtype == np.float32


@calls
def test_read_only_input_and_writable_output(call, backend: str) -> None:
    before = bits(X)
    got = call(X, 2, backend=backend)
    assert got.flags.writeable and got.flags.c_contiguous and not np.shares_memory(got, X)
    assert bits(X) == before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", LIBRARIES)
@calls
def test_results_have_the_library_and_dtype_of_the_input(call, library: str, dtype: str, backend: str) -> None:
    x = make(X, dtype, library)
    for form in (x, list(x)):
        got = call(form, 2, backend=backend)
        for part in got if isinstance(got, list) else [got]:
            assert type(part) is type(x)
            assert part.dtype == x.dtype
    assert (floats(x) == floats(make(X, dtype))).all()


# --------------------------------------------------------------------------------------------------------------- out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@calls
def test_out_is_filled_and_returned(call, dtype: str, backend: str) -> None:
    x = X.astype(dtype)
    expected = call(x, 2, backend=backend)
    out = np.full_like(expected, 7.0)
    assert call(x, 2, out=out, backend=backend) is out
    assert bits(out) == bits(expected)
    read_only = np.zeros_like(expected)
    read_only.flags.writeable = False
    other = "f4" if dtype == "float64" else "f8"
    wrongs = [np.zeros(out.shape, wrong) for wrong in ("int32", other, out.dtype.newbyteorder())]
    strided = np.zeros((*out.shape, 2), dtype)[..., 0]
    for wrong in (*wrongs, np.zeros((*out.shape, 1), dtype), read_only, strided, "out", 0, [0.0]):
        refuses("out", call, x, 2, out=wrong, backend=backend)
    assert not read_only.any()


@new_rules
def test_out_may_be_one_of_the_vectors(rule, backend: str) -> None:
    for d in (4, 3000):
        x = np.random.default_rng(d).standard_normal((11, d)).astype(np.float32)
        expected = bits(rule.call(x, 2, backend=backend))
        for row in (0, 5, 10):
            for form in (lambda y: y, list):
                y = x.copy()
                out = y[row]
                assert rule.call(form(y), 2, out=out, backend=backend) is out
                assert bits(out) == expected
                assert bits(np.delete(y, row, 0)) == bits(np.delete(x, row, 0))


def test_out_of_centered_clip_may_be_its_start(backend: str) -> None:
    x = np.random.default_rng(5).standard_normal((11, 3000)).astype(np.float32)
    start = x[0] / 2
    expected = bits(robust.centered_clip(x, radius=1.0, start=start, iterations=3, backend=backend))
    assert bits(start) == bits(x[0] / 2)
    robust.centered_clip(x, radius=1.0, start=start, iterations=3, out=start, backend=backend)
    assert bits(start) == expected


@mixes
def test_out_of_a_mix_may_be_its_input(mix, backend: str) -> None:
    for d in (4, 3000):
        x = np.random.default_rng(d).standard_normal((12, d)).astype(np.float32) * 20
        expected = mix(x, 2, backend=backend)
        y = x.copy()
        out = y[: len(expected)]
        assert mix(y, 2, out=out, backend=backend) is out
        assert bits(out) == bits(expected)
        assert bits(y[len(expected) :]) == bits(x[len(expected) :])
        y = x.copy()
        if len(expected) < 12:
            out = y[3 : 3 + len(expected)]
            mix(y, 2, out=out, backend=backend)
            assert bits(out) == bits(expected)


@mixes
def test_out_of_a_mix_of_layers(mix, backend: str) -> None:
    layers = [[row[:1].reshape(()), row[1:].copy()] for row in X]
    expected = mix(X, 2, backend=backend)
    out = [[np.zeros((), np.float32), np.zeros(3, np.float32)] for _ in expected]
    assert mix(layers, 2, out=out, backend=backend) is out
    assert b"".join(bits(part) for vector in out for part in vector) == bits(expected)
    for wrong in (out[:-1], [*out, out[0]], [vector[::-1] for vector in out], np.zeros_like(expected)):
        refuses("out", mix, layers, 2, out=wrong, backend=backend)


@calls
def test_errors_leave_out_untouched(call, backend: str) -> None:
    out = np.full_like(call(X, 2, backend=backend), 7.0)
    bad = X.copy()
    bad[:, 0] = nan
    with pytest.raises(ValueError):
        call(bad, 2, out=out, backend=backend)
    for wrong in ({"backend": "nope"}, {"num_threads": 0}, {"num_threads": 1.5}):
        with pytest.raises((ValueError, TypeError)):
            call(X, 2, out=out, **wrong)
    assert (out == 7).all()


def test_out_of_weights_and_hashes() -> None:
    expected = robust.nnm_weights(D, 2)
    out = np.full((11, 11), 7.0)
    assert robust.nnm_weights(D, 2, out=out) is out and bits(out) == bits(expected)
    refuses("out", robust.nnm_weights, D, 2, out=np.zeros((11, 11), np.float32))
    hashes = robust.simhash(X, 20)
    out = np.full((11, 3), 7, np.uint8)
    assert robust.simhash(X, 20, out=out) is out and bits(out) == bits(hashes)
    for wrong in (np.zeros((11, 2), np.uint8), np.zeros((11, 3), np.int8), np.zeros((3, 11), np.uint8).T):
        refuses("out", robust.simhash, X, 20, out=wrong)
    out = np.full((11, 11), 7)
    assert robust.hamming(hashes, hashes, out=out) is out and bits(out) == bits(robust.hamming(hashes, hashes))
    refuses("out", robust.hamming, hashes, hashes, out=np.zeros((11, 11), np.int32))


# ------------------------------------------------------------------------------------------------ threads, backends


@calls
def test_threads_do_not_change_a_bit(call) -> None:
    x = np.random.default_rng(1).standard_normal((12, 20_011)).astype(np.float32)
    x[2] = 1e20
    results = {bits(call(x, 2, num_threads=threads)) for threads in (1, 2, 3, 7)}
    assert len(results) == 1
