"""TopK, Threshold and RandK: C against the oracle byte for byte, the guess that must not matter, facts, refused bodies."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from compress_calls import (
    DTYPES,
    LARGE,
    LARGEST,
    MODES,
    SIZES,
    changed,
    check,
    coded,
    compare,
    decode,
    encode,
    judged_alike,
    memory_of,
    refused,
    same,
    vector,
)

from fastgd.compress.codecs import RandK, Threshold, TopK
from fastgd.compress.sparse import cpu, reference
from fastgd.compress.state import FEEDBACK, PLAIN, State, stream

CODECS = (TopK(ratio=0.01), TopK(ratio=0.1, bits=8), TopK(ratio=0.6), TopK(k=0), TopK(k=10**9, bits=8), Threshold(1.5),
          Threshold(0.0), RandK(ratio=0.1), RandK(k=3, scaled=True), RandK(k=0))


def gradient(n: int, step: int, ties: bool) -> np.ndarray:
    x = np.random.default_rng([n, step]).standard_normal(n)
    return np.round(2 * x) if ties else x**3


# ------------------------------------------------------------------------------------------------- the same bytes as the oracle


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_c_equals_the_reference(dtype: str, mode: int) -> None:
    for n in SIZES:
        for j, codec in enumerate(CODECS):
            compare(codec, [vector(gradient(n, step, j % 2 == step % 2), dtype) for step in range(3)], mode, threads=(1, 2, 3))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("codec", [CODECS[0], CODECS[1], CODECS[2], CODECS[5], CODECS[7]], ids=str)
def test_c_equals_the_reference_where_it_is_large(codec: Any, mode: int) -> None:
    compare(codec, [vector(gradient(LARGE, step, False)) for step in range(3)], mode, threads=(1, 2, 3))
    compare(codec, [vector(gradient(LARGE, 5, True), DTYPES[1 + mode % 2])], mode)


VARIED = (TopK(ratio=0.01), TopK(ratio=0.05, bits=8), TopK(ratio=0.5), Threshold(1.0), RandK(ratio=0.02, scaled=True))
HOSTILE = {
    "zero": lambda i: 0.0 * i,
    "signed zeros": lambda i: np.where(i % 2, -0.0, 0.0),
    "equal": lambda i: np.where(i % 3, 0.75, -0.75),
    "subnormal": lambda i: (i % 7) * 1e-45,
    "tiny": lambda i: (i % 301 - 150) * 1e-42,
    "huge": lambda i: np.where(i % 2, 1e38, -(i % 11) * 1e37),
    "largest": lambda i: np.where(i % 5, LARGEST, -LARGEST),
    "one-hot": lambda i: (i == len(i) // 2) * 3.0,
    "few": lambda i: (i % 977 == 5) * (1.0 + i),
    "alternating": lambda i: np.where(i % 2, 1.0, -2.0),
    "ramp": lambda i: i * 1.0,
    "last place": lambda i: 1.0 + (i * 7919 % 4096) * 2.0**-23,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_vectors(name: str) -> None:
    for n in (5, 600, 20_001, 70_000):
        x = vector(HOSTILE[name](np.arange(n)))
        for codec in VARIED:
            for mode in MODES:
                steps = 1 if "huge" in name or "largest" in name else 2  # twice the largest float is none
                compare(codec, [x] * steps, mode)


def guessed(kernel: Any, guess: tuple[int, int, int]) -> None:
    kernel.t.key, kernel.t.middle, kernel.t.upper = guess


def test_a_guess_never_matters(isa: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a sample says, bytes and memory are the same."""
    n = 40_000
    guesses = (0, 1, 2**20, 0x3F000000, 0x40000000, 0x40800000, 0x41400000, 0x7F7FFFFF, 2**31)
    for ties, mode, bits, ratio in itertools.product((False, True), MODES, (32, 8), (0.001, 0.02)):
        x, codec = vector(gradient(n, 1, ties)), TopK(ratio=ratio, bits=bits)
        first = np.random.default_rng(1).standard_normal(n).astype(np.float32) if mode else None
        plain = State(None if first is None else first.copy())
        right = encode(codec, x, plain, mode, backend="reference")
        for guess in itertools.combinations_with_replacement(guesses, 3):
            if guess[0] == 2**31:
                continue
            monkeypatch.setattr(cpu._TopK, "sample", functools.partialmethod(guessed, guess))
            fast = State(None if first is None else first.copy())
            assert same(encode(codec, x, fast, mode, threads=1 + guess[0] % 2), right), (mode, bits, guess)
            assert first is None or same(fast.memory, plain.memory), (mode, bits, guess)
            assert not fast.extra


def test_nonfinite_vectors_stay_within_bounds(isa: int) -> None:
    """What is written is free, where is not; it ends."""
    for n in (3, 20_001):
        x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
        x[::3], x[1::7] = np.nan, np.inf
        for codec in VARIED:
            for mode in MODES:
                memory = memory_of(n, mode)
                for _ in range(2):
                    body = encode(codec, x, memory, mode)
                    if codec.name == "topk":
                        k = codec.kept(n)
                        index = np.frombuffer(body[: 4 * k].tobytes(), np.uint32).astype(np.int64)
                        assert (np.diff(index) > 0).all() and (index < n).all()


# ------------------------------------------------------------------------------------------------------------------------ facts


def square(x: np.ndarray) -> float:
    return float((x.astype(np.float64) ** 2).sum())


def test_topk_contracts_with_equality_for_equal_magnitudes_alone() -> None:
    """||x - C(x)||^2 <= (1 - k / n) ||x||^2."""
    rng = np.random.default_rng(0)
    for n, k in ((10, 3), (100, 99), (1000, 10), (5000, 2500)):
        for equal in (True, False):
            x = rng.choice([-0.5, 0.5], n) * (1 if equal else 1 + 0.01 * rng.random(n))
            x = x.astype(np.float32)
            loss, bound = square(x - coded(TopK(k=k), x)), (1 - k / n) * square(x)
            assert loss == pytest.approx(bound, rel=1e-12) if equal else loss < bound
        codec = TopK(k=k, bits=8)
        assert square(x - coded(codec, x)) <= codec.contraction(n) * square(x)


@pytest.mark.parametrize("codec", [TopK(ratio=0.02), Threshold(1.0), RandK(ratio=0.1)], ids=str)
def test_p_is_c_and_e_bit_for_bit(codec: Any) -> None:
    """Each coordinate is sent or remembered, whole."""
    memory, e = memory_of(3000, FEEDBACK), np.zeros(3000, np.float32)
    for step in range(5):
        x = gradient(3000, step, False).astype(np.float32)
        p = e + x
        c = decode(codec, 3000, encode(codec, x, memory, FEEDBACK, stream(7, step, 3)))
        e = memory.memory.copy()
        assert same(c + e, p + np.float32(0)) and not (c * e).any()


def test_threshold_is_an_absolute_compressor() -> None:
    """||x - C(x)||^2 <= n value^2, and what is kept has at least that magnitude."""
    x = gradient(5000, 0, False).astype(np.float32)
    for value in (0.0, 0.3, 2.0, 1e30):
        c = coded(Threshold(value), x)
        assert square(x - c) <= 5000 * value**2
        assert same(c != 0, (np.abs(x) >= np.float32(value)) & (x != 0))


def indices(n: int, k: int, seed: int, step: int) -> np.ndarray:
    """Those of C: where a payload of ones has its values."""
    codec, body = RandK(k=k), np.zeros(16 + 4 * k, np.uint8)
    cpu.randk(codec, vector(np.arange(n)), State(), PLAIN, stream(seed, step, 0), body, 1)
    return body[16:].view(np.float32).astype(np.int64)


def test_randk_draws_permutations() -> None:
    for n in (1, 2, 3, 10, 63, 64, 65, 100, 1000, 4096, 5000):
        assert same(np.sort(indices(n, n, 5, n)), np.arange(n))
        assert same(indices(n, n, 5, n), reference.permutation(n, n, 5, n))
    n, k = 2**24 - 3, 2000
    j = reference.permutation(n, k, 9, 1)
    assert len(set(j)) == k and j.max() < n and abs(j.mean() / n - 0.5) < 4 / (12 * k) ** 0.5
    body = np.concatenate([np.array([9, 1], np.uint64).view(np.uint8), np.arange(1, k + 1, dtype=np.float32).view(np.uint8)])
    c = decode(RandK(k=k), n, body)
    assert same(c[j], np.arange(1, k + 1, dtype=np.float32)) and np.count_nonzero(c) == k


@pytest.mark.parametrize("n", range(2, 11))
def test_randk_is_uniform_where_n_is_small(n: int) -> None:
    """chi^2 over all sets of k indices (k = 2: pairs), and over the first index."""
    draws = 12_000
    for k in {1, min(2, n - 1), n // 2}:
        sets = [tuple(sorted(s)) for s in itertools.combinations(range(n), k)]
        counts = dict.fromkeys(sets, 0)
        for step in range(draws):
            counts[tuple(sorted(indices(n, k, 11 + k, step)))] += 1
        expected = draws / len(sets)
        chi = sum((count - expected) ** 2 for count in counts.values()) / expected
        free = len(sets) - 1
        assert chi < free + 4.5 * (2 * free) ** 0.5 + 8, (n, k, chi)


def test_randk_in_expectation() -> None:
    """E||x - C||^2 = (1 - k / n) ||x||^2; scaled: E C = x and E||x - C||^2 = (n / k - 1) ||x||^2. z-tests."""
    n, k, draws = 37, 5, 4000
    x = gradient(n, 0, False).astype(np.float32)
    for codec, factor in ((RandK(k=k), 1 - k / n), (RandK(k=k, scaled=True), n / k - 1)):
        c = np.stack([coded(codec, x, 7, step) for step in range(draws)])
        losses = ((x - c.astype(np.float64)) ** 2).sum(1)
        assert abs(losses.mean() - factor * square(x)) < 4 * losses.std() / draws**0.5
        if codec.scaled:
            z = (c.mean(0, np.float64) - x) / (c.std(0, np.float64) / draws**0.5)
            assert np.abs(z).max() < 4.5 and abs((z**2).sum() - n) < 5 * (2 * n) ** 0.5
    assert RandK(k=k, scaled=True).variance(n) == pytest.approx(n / k - 1)


def test_the_step_of_eight_bits() -> None:
    """127 steps are the largest magnitude, to a rounding; beside the largest float they do not overflow."""
    for x in (np.array([127.0, -64.4, 0.5, 1.5]), np.array([LARGEST, -LARGEST, LARGEST / 3]), np.array([1e-45, 0.0, -1e-45])):
        codec = TopK(k=len(x), bits=8)
        c = coded(codec, x)
        step = np.abs(x).max() / 127
        assert np.isfinite(c).all() and (np.abs(c - x) <= step * 0.5001 + 2e-45).all()


# ---------------------------------------------------------------------------------------------------------------- bodies refused


def word(value: Any, kind: Any = np.uint32) -> bytes:
    return np.array([value], kind).tobytes()


NAN, INF, OVER = word(np.nan, np.float32), word(-np.inf, np.float32), word(LARGEST / 100, np.float32)
REFUSED = [
    (TopK(k=4), [(16, NAN)], 1),
    (TopK(k=4), [(28, INF)], 1),
    (TopK(k=4), [(12, word(100))], 2),
    (TopK(k=4), [(12, word(2**32 - 1))], 2),
    (TopK(k=4), [(0, word(50)), (4, word(50))], 2),
    (TopK(k=4), [(0, word(99))], 2),
    (Threshold(1.0), [(0, word(100))], 2),
    (Threshold(1.0), [(-4, NAN)], 1),
    (RandK(k=4), [(16, INF)], 1),
    (RandK(k=4), [(12, word(1))], 4),
    (TopK(k=4, bits=8), [(16, NAN)], 1),
    (TopK(k=4, bits=8), [(16, INF)], 1),
    (TopK(k=4, bits=8), [(16, OVER)], 1),
    (TopK(k=4, bits=8), [(16, word(-0.0, np.float32))], 1),
    (TopK(k=4, bits=8), [(16, word(-1.0, np.float32))], 1),
    (TopK(k=4, bits=8), [(16, word(0.0, np.float32))], 3),
    (TopK(k=4, bits=8), [(23, word(-128, np.int8))], 3),
    (TopK(k=4, bits=8), [(8, word(0))], 2),
]


@pytest.mark.parametrize("codec, changes, reason", REFUSED)
def test_what_no_encoder_writes_is_refused(codec: Any, changes: list[tuple[int, bytes]], reason: int) -> None:
    body = encode(codec, gradient(100, 0, False))
    assert check(codec, 100, body) == 0
    assert refused(codec, 100, changed(body, *changes), ".") == reason


def test_any_bytes_are_refused_or_decoded() -> None:
    """C and the oracle agree on random bodies, and on valid ones with a byte changed."""
    rng = np.random.default_rng(0)
    accepted = 0
    for trial in range(600):
        codec = (TopK(k=5), TopK(k=5, bits=8), Threshold(0.5), RandK(k=5))[trial % 4]
        body = encode(codec, gradient(40, trial, False))
        if trial % 3 == 0:
            body = rng.integers(0, 256, len(body), np.uint8)
        if len(body):
            body[rng.integers(len(body))] ^= 1 << rng.integers(8)
        accepted += judged_alike(codec, 40, body)
    assert 100 < accepted < 500
