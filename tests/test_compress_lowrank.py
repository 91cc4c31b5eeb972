"""PowerSGD: kernels against the reference byte by byte, its facts, and bodies that no encoder writes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from compress_calls import (
    DTYPES,
    MODES,
    changed,
    check,
    compare,
    cut,
    decode,
    encode,
    judged_alike,
    memory_of,
    oracle,
    refused,
    same,
    vector,
)

from fastgd._native import lib
from fastgd.compress.codecs import PowerSGD
from fastgd.compress.state import DIFFERENCE, FEEDBACK, PLAIN, State, Vector, stream

#: (rows, columns), rank: one coordinate, one row, one column, fewer than a vector, around lanes, chunks, row blocks and panels.
SHAPES = [
    ((1, 1), 1), ((1, 2), 1), ((7, 1), 1), ((2, 4), 2), ((3, 3), 3), ((3, 4), 2), ((1, 31), 1), ((4, 8), 3), ((3, 11), 1),
    ((9, 7), 4), ((8, 8), 8), ((5, 13), 5), ((5, 17), 3), ((7, 73), 6), ((32, 16), 9), ((27, 19), 7), ((15, 273), 2),
    ((64, 64), 64), ((17, 241), 1), ((4, 1024), 4), ((3, 1025), 2), ((2, 2100), 2), ((129, 66), 11), ((1, 4097), 1),
    ((4095, 1), 1), ((100, 100), 4), ((2500, 4), 3),
]


def factors(codec: PowerSGD, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = body[: codec._length(0, 0, 0)].copy().view("<f4").astype(np.float64)
    split = codec.shape[0] * codec.rank
    return values[:split].reshape(-1, codec.rank), values[split:].reshape(-1, codec.rank)


def body_of(codec: PowerSGD, m: np.ndarray, state: State | None = None, mode: int = PLAIN, step: int = 0) -> np.ndarray:
    """The body of one step of the kernels, which NumPy can read as floats."""
    return encode(codec, m.ravel(), state, mode, stream(5, step, 0), shift=4)


def gradient(n: int, dtype: str, seed: int) -> Vector:
    return vector(np.random.default_rng(seed).standard_normal(n), dtype)


# ------------------------------------------------------------------------------------------------------ the same bytes


@pytest.mark.parametrize("mode", MODES)
def test_the_kernels_write_the_reference_s_bytes(mode: int) -> None:
    for (shape, rank), dtype in zip(SHAPES, itertools.cycle(DTYPES), strict=False):
        n = shape[0] * shape[1]
        compare(PowerSGD(rank, shape), [gradient(n, dtype if t else "float32", t) for t in range(3)], mode, threads=(1, 2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_threads_share_large_matrices(mode: int, dtype: str) -> None:
    for shape, rank in (((601, 500), 4), ((150, 2050), 5)):
        n = shape[0] * shape[1]
        compare(PowerSGD(rank, shape), [gradient(n, dtype, t) for t in range(3)], mode, threads=(1, 2, 3))


def hostile(kind: str, rows: int, columns: int, t: int) -> np.ndarray:
    rng = np.random.default_rng(t)
    signs = np.where(rng.random((rows, columns)) < 0.5, -1.0, 1.0)
    one = np.zeros((rows, columns))
    one[rows // 2, columns // 3] = -3e38
    with np.errstate(over="ignore", under="ignore"):
        return {
            "zero": np.zeros((rows, columns)), "minus zero": signs * 0.0, "equal": np.full((rows, columns), 0.1),
            "subnormal": signs * 1e-44, "tiny": rng.standard_normal((rows, columns)) * 1e-30, "huge": signs * 1e38 * (t == 0),
            "largest": np.full((rows, columns), np.finfo(np.float32).max) * (t == 0), "one hot": one * (t == 0),
            "alternating": np.where(np.arange(rows * columns).reshape(rows, columns) % 2, 1.0, -1.0),
            "rank one": np.outer(rng.standard_normal(rows), rng.standard_normal(columns)),
            "around 2^64": rng.standard_normal((rows, columns)) * 2.0**63,
            "wide range": signs * 2.0 ** rng.integers(-149, 100, (rows, columns)),
        }[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["zero", "minus zero", "equal", "subnormal", "tiny", "huge", "largest", "one hot", "alternating",
                                  "rank one", "around 2^64", "wide range"])
def test_hostile_matrices(kind: str) -> None:
    shapes = [((5, 17), 3), ((40, 24), 5), ((70, 33), 33), ((2, 1100), 2)]
    for mode, ((rows, columns), rank) in itertools.product(MODES, shapes):
        codec, matrices = PowerSGD(rank, (rows, columns)), [hostile(kind, rows, columns, t) for t in range(3)]
        compare(codec, [vector(m.ravel()) for m in matrices], mode)
        for m in matrices:
            left, _ = factors(codec, body_of(codec, m))
            assert np.abs(left.T @ left - np.eye(rank)).max() < 1e-6  # orthonormal, whatever the matrix


def test_what_is_not_finite_terminates_within_bounds() -> None:
    """With nonfinite="propagate" anything may come out, but it comes out, and the next finite matrix is well again."""
    codec, m = PowerSGD(3, (20, 30)), np.ones((20, 30), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        m[3, 4] = value
        state = memory_of(600, FEEDBACK)
        body_of(codec, m, state, FEEDBACK)
        state.memory[...] = 0
        left, right = factors(codec, body_of(codec, np.ones((20, 30)), state, FEEDBACK, 1))
        assert np.abs(left @ right.T - 1.0).max() < 1e-5


def test_a_state_of_another_shape_is_refused() -> None:
    state = State(np.zeros(12, np.float32), {"right": np.zeros((3, 2), np.float32)})
    with pytest.raises(ValueError, match="right factor"):
        body_of(PowerSGD(2, (3, 4)), np.ones((3, 4)), state, FEEDBACK)


# ------------------------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize("shape, rank", [((130, 66), 4), ((5, 4100), 5), ((9000, 2), 2), ((1, 12345), 1), ((150, 100), 64),
                                         ((3, 20000), 1)])
def test_decoding_in_ranges(shape: tuple[int, int], rank: int, isa: int) -> None:
    codec, n = PowerSGD(rank, shape), shape[0] * shape[1]
    body = body_of(codec, np.random.default_rng(1).standard_normal(shape))
    c, y = oracle(codec, n, body), np.random.default_rng(2).standard_normal(n).astype(np.float32)
    for span in (4096, 8192, 1 << 20):
        assert same(decode(codec, n, body, ranges=cut(n, span)), c)
        assert same(decode(codec, n, body, y, 0.3, cut(n, span)), y + np.float32(0.3) * c)


def test_bodies_that_no_encoder_writes() -> None:
    codec = PowerSGD(3, (6, 5))
    body = body_of(codec, np.random.default_rng(0).standard_normal((6, 5)))
    for index, value in itertools.product((0, 7, 17, 18, 32), (np.nan, np.inf, -np.inf, 2.0**126 * 1.01)):
        assert refused(codec, 30, changed(body, (4 * index, float(value))), "no encoder") == 1
    assert check(codec, 30, changed(body, (0, 1.01))) == 1  # a row longer than 1
    rng = np.random.default_rng(1)
    for _ in range(300):  # whatever passes decodes to numbers
        judged_alike(codec, 30, rng.integers(0, 256, len(body), np.uint8))


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5, 16, 17, 64])
def test_the_largest_factors_that_pass_decode_to_finite_numbers(rank: int) -> None:
    codec, most = PowerSGD(rank, (64, 64)), lib.fgd_lowrank_most(rank)
    left = np.full((64, rank), 1.0 / np.sqrt(rank), np.float32)
    body = np.concatenate([left.ravel(), np.full(64 * rank, most, np.float32)]).view(np.uint8)
    assert np.isfinite(decode(codec, 4096, body)).all()


# ------------------------------------------------------------------------------------------------------ facts


def low_rank(rows: int, columns: int, rank: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))


@pytest.mark.parametrize("rows, columns", [(3, 4), (1, 50), (50, 1), (30, 200), (300, 40)])
def test_low_rank_is_recovered(rows: int, columns: int) -> None:
    for rank in range(1, min(rows, columns, 8) + 1):
        for true in range(1, rank + 1):
            m = low_rank(rows, columns, true).astype(np.float32)
            left, right = factors(PowerSGD(rank, (rows, columns)), body_of(PowerSGD(rank, (rows, columns)), m))
            assert np.linalg.norm(left @ right.T - m) <= 1e-5 * np.linalg.norm(m)


def test_a_full_rank_of_factors_recovers_every_matrix() -> None:
    for rows, columns in ((5, 17), (64, 64), (17, 5), (1, 9), (2, 2)):
        codec, m = PowerSGD(min(rows, columns), (rows, columns)), np.random.default_rng(3).standard_normal((rows, columns))
        left, right = factors(codec, body_of(codec, m))
        assert np.linalg.norm(left @ right.T - m) <= 2e-6 * np.linalg.norm(m)


def test_the_error_is_never_longer_than_the_matrix() -> None:
    for seed, rank in itertools.product(range(20), (1, 2, 5)):
        codec, m = PowerSGD(rank, (23, 31)), np.random.default_rng(seed).standard_cauchy((23, 31)).astype(np.float32)
        c = decode(codec, m.size, body_of(codec, m)).reshape(m.shape)
        error, length = np.linalg.norm(m - c.astype(np.float64)), np.linalg.norm(m)
        assert error <= length * (1 + 1e-6)
        assert abs(error**2 + np.linalg.norm(c.astype(np.float64)) ** 2 - length**2) <= 1e-5 * length**2  # a projection


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-60, 1.0, 2.0**60, 2.0**100])
def test_powers_of_two_change_nothing_but_the_size(scale: float) -> None:
    codec, m = PowerSGD(3, (40, 30)), np.random.default_rng(4).standard_normal((40, 30)).astype(np.float32)
    left, right = factors(codec, body_of(codec, m))
    other_left, other_right = factors(codec, body_of(codec, m * np.float32(scale)))
    assert np.allclose(left, other_left, atol=1e-5) and np.allclose(right, other_right / scale, atol=1e-4)


def test_a_warm_start_converges_at_the_squared_ratio() -> None:
    """sin of the angle to the leading subspace shrinks by (sigma_3 / sigma_2)^2 a step."""
    rng = np.random.default_rng(6)
    u, v = np.linalg.qr(rng.standard_normal((60, 20)))[0], np.linalg.qr(rng.standard_normal((40, 20)))[0]
    values = np.concatenate([[4.0, 2.0, 1.2], 0.6 * 0.9 ** np.arange(17)])
    m, codec, state = (u * values) @ v.T, PowerSGD(2, (60, 40)), memory_of(2400, FEEDBACK)
    sines = []
    for t in range(9):
        state.memory[...] = 0
        left, _ = factors(codec, body_of(codec, m, state, FEEDBACK, t))
        sines.append(np.linalg.norm(u[:, 2:].T @ left, 2))
    rates = np.array(sines[4:]) / np.array(sines[3:-1])
    assert np.abs(rates / (1.2 / 2.0) ** 2 - 1.0).max() < 0.01


def test_vanishing_columns_do_not_poison_the_warm_start() -> None:
    """Gradients of rank one at rank two: the case in which the hook of torch turns to NaN within ten steps."""
    codec, rng = PowerSGD(2, (16, 12)), np.random.default_rng(7)
    for mode in (FEEDBACK, DIFFERENCE):
        state = memory_of(192, FEEDBACK)
        for t in range(60):
            g = np.full((16, 12), 0.25) if t < 30 else np.outer(rng.standard_normal(16), rng.standard_normal(12))
            left, right = factors(codec, body_of(codec, g, state, mode, t))
            assert np.isfinite(right).all() and np.abs(left.T @ left - np.eye(2)).max() < 1e-6
            if mode == FEEDBACK:
                assert np.linalg.norm(left @ right.T - g) < 1e-4 * np.linalg.norm(g)
        for t in range(60, 63):  # nothing, then something again
            body_of(codec, np.zeros((16, 12)), state, FEEDBACK, t)
        for t in (63, 64):  # twice: what is left in memory, and the last factor with it, has nothing of g's rows
            state.memory[...] = 0
            left, right = factors(codec, body_of(codec, g, state, FEEDBACK, t))
        assert np.linalg.norm(left @ right.T - g) < 1e-4 * np.linalg.norm(g)


def test_a_warm_start_without_any_part_of_the_matrix_is_left_behind() -> None:
    """The gradient moves to columns that it never had: M Q is exactly zero, P is drawn, and the step after finds the matrix."""
    codec, state = PowerSGD(2, (20, 30)), memory_of(600, FEEDBACK)
    m = np.zeros((2, 20, 30))
    m[0, :, :10], m[1, :, 15:] = low_rank(20, 10, 2), low_rank(20, 15, 2)
    for t in range(6):
        state.memory[...] = 0
        left, right = factors(codec, body_of(codec, m[t // 4], state, FEEDBACK, t))
        assert t == 4 or np.linalg.norm(left @ right.T - m[t // 4]) < 1e-4 * np.linalg.norm(m[t // 4])


def test_feedback_keeps_the_sum() -> None:
    """Sum of gradients = sum of what was sent + what is in memory, up to the roundings of the steps."""
    codec, state, rng = PowerSGD(2, (20, 30)), memory_of(600, FEEDBACK), np.random.default_rng(8)
    sent, total = np.zeros(600), np.zeros(600)
    for t in range(50):
        g = rng.standard_normal(600).astype(np.float32)
        total += g
        sent += decode(codec, 600, body_of(codec, g.reshape(20, 30), state, FEEDBACK, t))
    assert np.abs(total - sent - state.memory).max() < 1e-4


def test_difference_tracks_a_fixed_matrix() -> None:
    codec, state = PowerSGD(2, (20, 30)), memory_of(600, FEEDBACK)
    m = np.random.default_rng(9).standard_normal((20, 30))
    for t in range(60):
        body_of(codec, m, state, DIFFERENCE, t)
    assert np.abs(state.memory - m.ravel()).max() < 1e-5


def test_local_errors_stay_bounded_where_aggregated_ones_grow() -> None:
    """Two workers with different gradients: p - C(p) stays; p - mean C(p), which includes the other's gradient, does not."""
    codec, rng = PowerSGD(2, (16, 16)), np.random.default_rng(10)
    means = [rng.standard_normal((16, 16)) for _ in range(2)]
    lengths: dict[str, list[float]] = {"local": [], "aggregated": []}
    for kind, norms in lengths.items():
        states = [memory_of(256, FEEDBACK) for _ in range(2)]
        noise = np.random.default_rng(11)
        for t in range(400):
            gradients = [(mean + 0.1 * noise.standard_normal((16, 16))).astype(np.float32) for mean in means]
            inputs = [state.memory + g.ravel() for state, g in zip(states, gradients, strict=True)]
            sent = [decode(codec, 256, body_of(codec, g, s, FEEDBACK, t)) for g, s in zip(gradients, states, strict=True)]
            if kind == "aggregated":
                for state, p in zip(states, inputs, strict=True):
                    state.memory[...] = p - (sent[0] + sent[1]) / 2
            norms.append(max(float(np.linalg.norm(state.memory)) for state in states))
    local, aggregated = lengths["local"], lengths["aggregated"]
    assert max(local[200:]) < 1.3 * max(local[:200])
    assert aggregated[399] > 1.7 * aggregated[199] > 5 * local[199]
