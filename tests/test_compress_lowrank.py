"""PowerSGD: kernels against the reference byte by byte, its facts, and bodies that no encoder writes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fastgd._native import ffi, lib
from fastgd.compress.codecs import PowerSGD
from fastgd.compress.lowrank import cpu, reference
from fastgd.compress.state import DIFFERENCE, FEEDBACK, PLAIN, State, Vector, stream
from fastgd.compress.wire import Header

MODES = (PLAIN, FEEDBACK, DIFFERENCE)
LEVELS = range(lib.fgd_isa_best() + 1)
#: (rows, columns), rank: one coordinate, one row, one column, fewer than a vector, around lanes, chunks, row blocks and panels.
SHAPES = [
    ((1, 1), 1), ((1, 2), 1), ((7, 1), 1), ((2, 4), 2), ((3, 3), 3), ((3, 4), 2), ((1, 31), 1), ((4, 8), 3), ((3, 11), 1),
    ((9, 7), 4), ((8, 8), 8), ((5, 13), 5), ((5, 17), 3), ((7, 73), 6), ((32, 16), 9), ((27, 19), 7), ((15, 273), 2),
    ((64, 64), 64), ((17, 241), 1), ((4, 1024), 4), ((3, 1025), 2), ((2, 2100), 2), ((129, 66), 11), ((1, 4097), 1),
    ((4095, 1), 1), ((100, 100), 4), ((2500, 4), 3),
]


class Pair:
    """The kernels and the reference side by side, step by step."""

    def __init__(self, shape: tuple[int, int], rank: int, mode: int) -> None:
        self.codec, self.mode, self.n, self.steps = PowerSGD(rank, shape), mode, shape[0] * shape[1], 0
        self.states = [State(None if mode == PLAIN else np.zeros(self.n, np.float32)) for _ in range(2)]

    def step(self, x: Vector, threads: int = 1, offset: int = 0) -> np.ndarray:
        size = self.codec._length(self.n, 0, 0)
        before = x.data.tobytes()
        bodies = [np.full(size + 8, 0xA5, np.uint8)[offset:] for _ in range(2)]
        for kernel, state, body in zip((cpu, reference), self.states, bodies, strict=True):
            assert kernel.powersgd(self.codec, x, state, self.mode, stream(11, self.steps, 1), body, threads) == self.codec.rank
        self.steps += 1
        body = bodies[0][:size]
        assert x.data.tobytes() == before
        assert np.array_equal(body, bodies[1][:size]) and (bodies[0][size:] == 0xA5).all()
        if self.mode != PLAIN:
            assert np.array_equal(*(state.memory.view(np.uint32) for state in self.states))
            assert np.array_equal(*(state.extra["right"] for state in self.states))
        c, expected = decode(self.codec, self.n, body), reference.decode_powersgd(self.codec, header(self.codec, self.n), body)
        assert np.array_equal(c.view(np.uint32), expected.view(np.uint32)) and np.isfinite(c).all()
        return c


def header(codec: PowerSGD, n: int) -> Header:
    return Header(codec.code, 0, n, codec.rank, codec.shape[1], codec._length(n, 0, 0))


def payload(codec: PowerSGD, n: int, body: np.ndarray) -> Any:
    return ffi.new("fgd_payload *", {"codec": codec.code, "n": n, "a": codec.rank, "b": codec.shape[1],
                                     "body": ffi.from_buffer("uint8_t[]", body)})


def decode(codec: PowerSGD, n: int, body: np.ndarray, out: np.ndarray | None = None, scale: float = 1.0,
           span: int = 4096) -> np.ndarray:
    q, add = payload(codec, n, body), out is not None
    assert lib.fgd_compress_check(q) == 0
    result = out if out is not None else np.full(n, np.nan, np.float32)
    for lo in range(0, n, span):
        lib.fgd_compress_decode_range(q, lo, min(lo + span, n), scale, add, ffi.from_buffer("float[]", result))
    return result


def factors(codec: PowerSGD, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = body[: codec._length(0, 0, 0)].copy().view("<f4").astype(np.float64)
    split = codec.shape[0] * codec.rank
    return values[:split].reshape(-1, codec.rank), values[split:].reshape(-1, codec.rank)


def compress(codec: PowerSGD, m: np.ndarray, state: State | None = None, mode: int = PLAIN, step: int = 0) -> np.ndarray:
    """The body of one step of the kernels."""
    body = np.empty(codec._length(0, 0, 0), np.uint8)
    x = Vector(np.ascontiguousarray(m, np.float32).ravel(), "float32")
    cpu.powersgd(codec, x, state or State(), mode, stream(5, step, 0), body, 1)
    return body


def gradient(n: int, dtype: str, seed: int) -> Vector:
    g = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    if dtype == "bfloat16":
        return Vector((g.view(np.uint32) >> 16).astype(np.uint16), dtype)
    return Vector(g.astype(dtype), dtype)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Any:
    before = lib.fgd_isa_current()
    lib.fgd_isa_use(request.param)
    yield request.param
    lib.fgd_isa_use(before)


# ------------------------------------------------------------------------------------------------------ the same bytes


@pytest.mark.parametrize("mode", MODES)
def test_the_kernels_write_the_reference_s_bytes(mode: int, level: int) -> None:
    dtypes = itertools.cycle(("float32", "float16", "bfloat16"))
    for shape, rank in SHAPES:
        pair, dtype = Pair(shape, rank, mode), next(dtypes)
        for t in range(3):
            pair.step(gradient(pair.n, dtype if t else "float32", t), threads=1 + t, offset=t)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
def test_threads_share_large_matrices(mode: int, dtype: str) -> None:
    for shape, rank in (((601, 500), 4), ((150, 2050), 5)):
        pair = Pair(shape, rank, mode)
        for t in range(3):
            pair.step(gradient(pair.n, dtype, t), threads=1 + t)


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
    before = lib.fgd_isa_current()
    try:
        shapes = [((5, 17), 3), ((40, 24), 5), ((70, 33), 33), ((2, 1100), 2)]
        for mode, ((rows, columns), rank) in itertools.product(MODES, shapes):
            pair = Pair((rows, columns), rank, mode)
            for t in range(3):
                lib.fgd_isa_use(t)
                m = hostile(kind, rows, columns, t)
                pair.step(Vector(m.ravel(), "float32"))
                left, _ = factors(pair.codec, compress(pair.codec, m))
                assert np.abs(left.T @ left - np.eye(rank)).max() < 1e-6  # orthonormal, whatever the matrix
    finally:
        lib.fgd_isa_use(before)


def test_what_is_not_finite_terminates_within_bounds() -> None:
    """With nonfinite="propagate" anything may come out, but it comes out, and the next finite matrix is well again."""
    codec, m = PowerSGD(3, (20, 30)), np.ones((20, 30), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        m[3, 4] = value
        state = State(np.zeros(600, np.float32))
        compress(codec, m, state, FEEDBACK)
        state.memory[...] = 0
        left, right = factors(codec, compress(codec, np.ones((20, 30)), state, FEEDBACK, 1))
        assert np.abs(left @ right.T - 1.0).max() < 1e-5


def test_a_state_of_another_shape_is_refused() -> None:
    state = State(np.zeros(12, np.float32), {"right": np.zeros((3, 2), np.float32)})
    with pytest.raises(ValueError, match="right factor"):
        compress(PowerSGD(2, (3, 4)), np.ones((3, 4)), state, FEEDBACK)


# ------------------------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize("shape, rank", [((130, 66), 4), ((5, 4100), 5), ((9000, 2), 2), ((1, 12345), 1), ((150, 100), 64),
                                         ((3, 20000), 1)])
def test_decoding_in_ranges(shape: tuple[int, int], rank: int, level: int) -> None:
    codec, n = PowerSGD(rank, shape), shape[0] * shape[1]
    body = compress(codec, np.random.default_rng(1).standard_normal(shape))
    c = reference.decode_powersgd(codec, header(codec, n), body)
    for span in (4096, 8192, 1 << 20):
        assert np.array_equal(decode(codec, n, body, span=span), c)
        y = np.random.default_rng(2).standard_normal(n).astype(np.float32)
        expected = y + np.float32(0.3) * c
        assert np.array_equal(decode(codec, n, body, y, 0.3, span), expected)


def test_bodies_that_no_encoder_writes(level: int) -> None:
    codec = PowerSGD(3, (6, 5))
    body = compress(codec, np.random.default_rng(0).standard_normal((6, 5)))
    for index, value in itertools.product((0, 7, 17, 18, 32), (np.nan, np.inf, -np.inf, 2.0**126 * 1.01)):
        values = body.copy().view("<f4")
        values[index] = value
        assert lib.fgd_compress_check(payload(codec, 30, values.view(np.uint8))) == 1
        with pytest.raises(ValueError, match="no encoder"):
            reference.decode_powersgd(codec, header(codec, 30), values.view(np.uint8))
    values = body.copy().view("<f4")
    values[0] = 1.01  # a row longer than 1
    assert lib.fgd_compress_check(payload(codec, 30, values.view(np.uint8))) == 1
    rng = np.random.default_rng(1)
    for _ in range(300):  # whatever passes decodes to numbers
        bits = rng.integers(0, 256, len(body), np.uint8)
        if lib.fgd_compress_check(payload(codec, 30, bits)) == 0:
            assert np.isfinite(decode(codec, 30, bits)).all()


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
            left, right = factors(PowerSGD(rank, (rows, columns)), compress(PowerSGD(rank, (rows, columns)), m))
            assert np.linalg.norm(left @ right.T - m) <= 1e-5 * np.linalg.norm(m)


def test_a_full_rank_of_factors_recovers_every_matrix() -> None:
    for rows, columns in ((5, 17), (64, 64), (17, 5), (1, 9), (2, 2)):
        codec, m = PowerSGD(min(rows, columns), (rows, columns)), np.random.default_rng(3).standard_normal((rows, columns))
        left, right = factors(codec, compress(codec, m))
        assert np.linalg.norm(left @ right.T - m) <= 2e-6 * np.linalg.norm(m)


def test_the_error_is_never_longer_than_the_matrix() -> None:
    for seed, rank in itertools.product(range(20), (1, 2, 5)):
        codec, m = PowerSGD(rank, (23, 31)), np.random.default_rng(seed).standard_cauchy((23, 31)).astype(np.float32)
        c = decode(codec, m.size, compress(codec, m)).reshape(m.shape)
        error, length = np.linalg.norm(m - c.astype(np.float64)), np.linalg.norm(m)
        assert error <= length * (1 + 1e-6)
        assert abs(error**2 + np.linalg.norm(c.astype(np.float64)) ** 2 - length**2) <= 1e-5 * length**2  # a projection


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-60, 1.0, 2.0**60, 2.0**100])
def test_powers_of_two_change_nothing_but_the_size(scale: float) -> None:
    codec, m = PowerSGD(3, (40, 30)), np.random.default_rng(4).standard_normal((40, 30)).astype(np.float32)
    left, right = factors(codec, compress(codec, m))
    other_left, other_right = factors(codec, compress(codec, m * np.float32(scale)))
    assert np.allclose(left, other_left, atol=1e-5) and np.allclose(right, other_right / scale, atol=1e-4)


def test_a_warm_start_converges_at_the_squared_ratio() -> None:
    """sin of the angle to the leading subspace shrinks by (sigma_3 / sigma_2)^2 a step."""
    rng = np.random.default_rng(6)
    u, v = np.linalg.qr(rng.standard_normal((60, 20)))[0], np.linalg.qr(rng.standard_normal((40, 20)))[0]
    values = np.concatenate([[4.0, 2.0, 1.2], 0.6 * 0.9 ** np.arange(17)])
    m, codec, state = (u * values) @ v.T, PowerSGD(2, (60, 40)), State(np.zeros(2400, np.float32))
    sines = []
    for t in range(9):
        state.memory[...] = 0
        left, _ = factors(codec, compress(codec, m, state, FEEDBACK, t))
        sines.append(np.linalg.norm(u[:, 2:].T @ left, 2))
    rates = np.array(sines[4:]) / np.array(sines[3:-1])
    assert np.abs(rates / (1.2 / 2.0) ** 2 - 1.0).max() < 0.01


def test_vanishing_columns_do_not_poison_the_warm_start() -> None:
    """Gradients of rank one at rank two: the case in which the hook of torch turns to NaN within ten steps."""
    codec, rng = PowerSGD(2, (16, 12)), np.random.default_rng(7)
    for mode in (FEEDBACK, DIFFERENCE):
        state = State(np.zeros(192, np.float32))
        for t in range(60):
            g = np.full((16, 12), 0.25) if t < 30 else np.outer(rng.standard_normal(16), rng.standard_normal(12))
            left, right = factors(codec, compress(codec, g, state, mode, t))
            assert np.isfinite(right).all() and np.abs(left.T @ left - np.eye(2)).max() < 1e-6
            if mode == FEEDBACK:
                assert np.linalg.norm(left @ right.T - g) < 1e-4 * np.linalg.norm(g)
        for t in range(60, 63):  # nothing, then something again
            compress(codec, np.zeros((16, 12)), state, FEEDBACK, t)
        for t in (63, 64):  # twice: what is left in memory, and the last factor with it, has nothing of g's rows
            state.memory[...] = 0
            left, right = factors(codec, compress(codec, g, state, FEEDBACK, t))
        assert np.linalg.norm(left @ right.T - g) < 1e-4 * np.linalg.norm(g)


def test_a_warm_start_without_any_part_of_the_matrix_is_left_behind() -> None:
    """The gradient moves to columns that it never had: M Q is exactly zero, P is drawn, and the step after finds the matrix."""
    codec, state = PowerSGD(2, (20, 30)), State(np.zeros(600, np.float32))
    m = np.zeros((2, 20, 30))
    m[0, :, :10], m[1, :, 15:] = low_rank(20, 10, 2), low_rank(20, 15, 2)
    for t in range(6):
        state.memory[...] = 0
        left, right = factors(codec, compress(codec, m[t // 4], state, FEEDBACK, t))
        assert t == 4 or np.linalg.norm(left @ right.T - m[t // 4]) < 1e-4 * np.linalg.norm(m[t // 4])


def test_feedback_keeps_the_sum() -> None:
    """Sum of gradients = sum of what was sent + what is in memory, up to the roundings of the steps."""
    codec, state, rng = PowerSGD(2, (20, 30)), State(np.zeros(600, np.float32)), np.random.default_rng(8)
    sent, total = np.zeros(600), np.zeros(600)
    for t in range(50):
        g = rng.standard_normal(600).astype(np.float32)
        total += g
        sent += decode(codec, 600, compress(codec, g.reshape(20, 30), state, FEEDBACK, t))
    assert np.abs(total - sent - state.memory).max() < 1e-4


def test_difference_tracks_a_fixed_matrix() -> None:
    codec, state = PowerSGD(2, (20, 30)), State(np.zeros(600, np.float32))
    m = np.random.default_rng(9).standard_normal((20, 30))
    for t in range(60):
        compress(codec, m, state, DIFFERENCE, t)
    assert np.abs(state.memory - m.ravel()).max() < 1e-5


def test_local_errors_stay_bounded_where_aggregated_ones_grow() -> None:
    """Two workers with different gradients: p - C(p) stays; p - mean C(p), which includes the other's gradient, does not."""
    codec, rng = PowerSGD(2, (16, 16)), np.random.default_rng(10)
    means = [rng.standard_normal((16, 16)) for _ in range(2)]
    lengths: dict[str, list[float]] = {"local": [], "aggregated": []}
    for kind, norms in lengths.items():
        states = [State(np.zeros(256, np.float32)) for _ in range(2)]
        noise = np.random.default_rng(11)
        for t in range(400):
            gradients = [(mean + 0.1 * noise.standard_normal((16, 16))).astype(np.float32) for mean in means]
            inputs = [state.memory + g.ravel() for state, g in zip(states, gradients, strict=True)]
            sent = [decode(codec, 256, compress(codec, g, s, FEEDBACK, t)) for g, s in zip(gradients, states, strict=True)]
            if kind == "aggregated":
                for state, p in zip(states, inputs, strict=True):
                    state.memory[...] = p - (sent[0] + sent[1]) / 2
            norms.append(max(float(np.linalg.norm(state.memory)) for state in states))
    local, aggregated = lengths["local"], lengths["aggregated"]
    assert max(local[200:]) < 1.3 * max(local[:200])
    assert aggregated[399] > 1.7 * aggregated[199] > 5 * local[199]
