"""Drive: C against the oracle to the bit, the rotation's and the codes' closed forms, bodies that no encoder writes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator

import numpy as np
import pytest

from fastgd._native import ffi, lib
from fastgd.compress.codecs import Drive
from fastgd.compress.rotation import cpu, reference
from fastgd.compress.state import DIFFERENCE, FEEDBACK, PLAIN, State, Stream, Vector
from fastgd.compress.wire import Header
from fastgd.random.reference import rademacher

SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 255, 257, 511, 512, 513, 1025, 4095, 4096, 4097, 10000]
MODES = [PLAIN, FEEDBACK, DIFFERENCE]
CODECS = [Drive(bits, unbiased) for bits in (1, 2, 3, 4) for unbiased in (False, True)]
FLT_MAX = float(np.finfo(np.float32).max)
#: What optimal quantisers of a normal distribution leave of its variance, 1 to 4 bits.
LLOYD_MAX = {1: 1 - 2 / math.pi, 2: 0.1175, 3: 0.03454, 4: 0.009497}


@pytest.fixture(params=[0, 1, 2], ids=["default", "v3", "v4"])
def isa(request: pytest.FixtureRequest) -> Iterator[int]:
    """Every instruction set this CPU has."""
    library = importlib.import_module("fastgd._native").lib
    before = library.fgd_isa_current()
    if request.param > library.fgd_isa_best():
        pytest.skip("this CPU or build lacks the instruction set")
    library.fgd_isa_use(request.param)
    yield request.param
    library.fgd_isa_use(before)


def make(values: np.ndarray, dtype: str = "float32") -> Vector:
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        return Vector((bits >> np.uint32(16)).astype(np.uint16), dtype)
    return Vector(values.astype(dtype), dtype)


def body_of(codec: Drive, n: int) -> np.ndarray:
    """Room for a body, at an odd address."""
    return np.full(codec._length(n, codec.bits, 0) + 1, 0xA5, np.uint8)[1:]


def header(codec: Drive, n: int) -> Header:
    return Header(codec.code, int(codec.unbiased), n, codec.bits, 0, codec._length(n, codec.bits, 0))


def payload(codec: Drive, n: int, body: np.ndarray) -> object:
    fields = {"codec": codec.code, "option": int(codec.unbiased), "n": n, "a": codec.bits}
    return ffi.new("fgd_payload *", fields | {"body": ffi.from_buffer("uint8_t[]", body)})


def check(codec: Drive, n: int, body: np.ndarray) -> int:
    return int(lib.fgd_compress_check(payload(codec, n, body)))


def decode(codec: Drive, n: int, body: np.ndarray) -> np.ndarray:
    out = np.full(n, np.nan, np.float32)
    for lo in range(0, n, 8192):
        lib.fgd_compress_decode_range(payload(codec, n, body), lo, min(lo + 8192, n), 1.0, 0, ffi.from_buffer("float[]", out))
    return out


def encode(codec: Drive, values: np.ndarray, seed: int = 1, step: int = 0) -> np.ndarray:
    body = body_of(codec, len(values))
    cpu.drive(codec, make(values), State(), PLAIN, Stream(seed, step, seed), body)
    return body


def coded(codec: Drive, values: np.ndarray, seed: int = 1, step: int = 0) -> np.ndarray:
    return decode(codec, len(values), encode(codec, values, seed, step))


def error(codec: Drive, values: np.ndarray, seed: int) -> float:
    exact = values.astype(np.float64)
    return float(((coded(codec, values, seed) - exact) ** 2).sum() / (exact**2).sum())


def compare(codec: Drive, vectors: list[Vector], mode: int, threads: int = 1) -> None:
    """Several steps on one memory: the same bodies, memories and values as the oracle's."""
    n = len(vectors[0].data)
    states = [State(np.zeros(n, np.float32) if mode else None) for _ in range(2)]
    for step, x in enumerate(vectors):
        bodies, before = [body_of(codec, n) for _ in range(2)], x.data.copy()
        for module, state, body in zip((reference, cpu), states, bodies, strict=True):
            stream = Stream(2**63 + 5, 2**32 - 4 + step, 9)
            assert module.drive(codec, x, state, mode, stream, body, threads) == codec.bits
        assert bodies[0].tobytes() == bodies[1].tobytes()
        assert before.tobytes() == x.data.tobytes()
        if mode:
            assert states[0].memory.tobytes() == states[1].memory.tobytes()
        assert check(codec, n, bodies[1]) == 0
        assert decode(codec, n, bodies[1]).tobytes() == reference.decode_drive(codec, header(codec, n), bodies[0]).tobytes()


# ------------------------------------------------------------------------------------------------ C and the oracle


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_sizes(codec: Drive, mode: int, isa: int) -> None:
    random = np.random.default_rng(mode)
    for n in SIZES:
        compare(codec, [make(random.standard_normal(n)) for _ in range(2)], mode)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
def test_dtypes(dtype: str, mode: int, isa: int) -> None:
    random = np.random.default_rng(3)
    for n in (1, 31, 4096, 4100):
        for bits in (1, 3):
            compare(Drive(bits), [make(random.standard_normal(n), dtype) for _ in range(3)], mode)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads: int) -> None:
    random = np.random.default_rng(4)
    for mode, codec in ((PLAIN, Drive(1)), (FEEDBACK, Drive(4)), (DIFFERENCE, Drive(2, True))):
        compare(codec, [make(random.standard_normal(300_007)) for _ in range(2)], mode, threads)


def hostile(n: int) -> dict[str, np.ndarray]:
    random, one_hot = np.random.default_rng(5), np.zeros(n)
    one_hot[n // 2] = -3.0
    signs = np.where(np.arange(n) % 2, 1.0, -1.0)
    return {
        "zero": np.zeros(n), "negative zero": -np.zeros(n), "signed zeros": signs * 0.0, "equal": np.full(n, 0.1),
        "one-hot": one_hot, "alternating": signs, "smallest": np.full(n, 2.0**-149),
        "subnormal": random.standard_normal(n) * 1e-41,
        "smallest one-hot": one_hot / 3 * 2.0**-149, "largest": signs * FLT_MAX, "huge": random.standard_normal(n) * 3e37,
        "largest one-hot": one_hot / 3 * FLT_MAX, "ranges": random.standard_normal(n) * 10.0 ** random.integers(-44, 37, n),
        "hadamard row": rademacher(2**63 + 5, 2**32 - 4, 0, n) * FLT_MAX,
    }


@pytest.mark.parametrize("kind", hostile(1))
def test_hostile_vectors(kind: str, isa: int) -> None:
    for n in (1, 5, 100, 4096, 5000):
        x = make(hostile(n)[kind])
        for codec in CODECS:
            compare(codec, [x], PLAIN)
            body = encode(codec, x.data)
            assert np.isfinite(decode(codec, n, body)).all()
            if float(np.abs(x.data).max()) < 1e34:
                compare(codec, [x, x], FEEDBACK)
                compare(codec, [x, x], DIFFERENCE)


def test_what_is_not_finite_stays_within_bounds(isa: int) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for n in (1, 20, 4100):
            for mode in MODES:
                for codec in CODECS:
                    x = np.ones(n, np.float32)
                    x[n // 2] = bad
                    room = np.full(codec._length(n, codec.bits, 0) + 64, 0xA5, np.uint8)
                    cpu.drive(codec, make(x), State(np.zeros(n, np.float32) if mode else None), mode, Stream(1, 2, 3), room[:-64])
                    assert (room[-64:] == 0xA5).all()


def test_adding() -> None:
    """out + fl(scale c), on whole blocks of a longer vector, the others untouched."""
    random, n = np.random.default_rng(6), 3 * 4096 + 100
    for codec in CODECS:
        body = encode(codec, random.standard_normal(n))
        c, out = decode(codec, n, body), random.standard_normal(n).astype(np.float32)
        expected = out.copy()
        expected[4096:8192] += np.float32(0.3) * c[4096:8192]
        expected[12288:] += np.float32(0.3) * c[12288:]
        for lo, hi in ((4096, 8192), (12288, n)):
            lib.fgd_compress_decode_range(payload(codec, n, body), lo, hi, 0.3, 1, ffi.from_buffer("float[]", out))
        assert out.tobytes() == expected.tobytes()


# ------------------------------------------------------------------------------------------------------------ facts


def test_the_transform_is_orthonormal() -> None:
    x = np.random.default_rng(7).standard_normal((3, 4096)).astype(np.float32)
    y = reference.hadamard(x)
    norms = [(v.astype(np.float64) ** 2).sum(axis=1) for v in (x, y)]
    assert np.allclose(norms[1], 4096 * norms[0], rtol=1e-6)
    assert np.abs(reference.hadamard(y) / 4096 - x).max() < 1e-6 * np.abs(x).max()
    dense = reference.hadamard(np.eye(16, dtype=np.float32))
    assert np.array_equal(dense @ dense.T, 16 * np.eye(16)) and set(dense.ravel()) == {-1.0, 1.0}


def test_decoding_is_exact() -> None:
    """The decoder's sums are integers that float32 holds, whatever the codes."""
    for levels in reference.LEVELS.values():
        assert 4096 * max(levels) < 2**24


def test_one_bit_errors() -> None:
    """1 - 2 / pi, and pi / 2 - 1 without bias: 0.3643 and 0.5730 on a lognormal vector."""
    x = np.random.default_rng(8).lognormal(size=65536).astype(np.float32)
    biased, unbiased = (np.mean([error(Drive(1, option), x, seed) for seed in range(5)]) for option in (False, True))
    assert biased == pytest.approx(1 - 2 / math.pi, rel=0.03) and biased == pytest.approx(0.3643, rel=0.03)
    assert unbiased == pytest.approx(math.pi / 2 - 1, rel=0.03) and unbiased == pytest.approx(0.5730, rel=0.03)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_errors(bits: int) -> None:
    """D, the optimal quantiser's, and 1 / (1 - D) - 1 without bias."""
    x = np.random.default_rng(9).lognormal(size=65536).astype(np.float32)
    d = LLOYD_MAX[bits]
    assert np.mean([error(Drive(bits), x, seed) for seed in range(3)]) == pytest.approx(d, rel=0.03)
    assert np.mean([error(Drive(bits, True), x, seed) for seed in range(3)]) == pytest.approx(1 / (1 - d) - 1, rel=0.03)


def test_one_bit_contracts_every_vector() -> None:
    """E ||x - C(x)||^2 <= ||x||^2 / 2, attained by two equal coordinates of a block; one coordinate is coded exactly."""
    random = np.random.default_rng(10)
    for n in (2, 64, 4096):
        for hot in sorted({1, 2, min(3, n), min(5, n), min(17, n), n}):
            x = np.zeros(n, np.float32)
            x[random.permutation(n)[:hot]] = random.standard_normal(hot) + 3 if hot > 2 else 1.5
            errors = [error(Drive(1), x, seed) for seed in range(200 if n < 4096 else 50)]
            assert np.mean(errors) <= 0.5 + 1e-6
            if hot <= 2:
                assert errors == pytest.approx([0.5 * (hot - 1)] * len(errors), abs=1e-6)


def test_biased_scales_leave_an_orthogonal_error() -> None:
    """||x - C(x)||^2 = ||x||^2 - ||C(x)||^2 block by block; unbiased <x, C(x)> = ||x||^2."""
    x = np.random.default_rng(11).standard_normal(4096).astype(np.float32).astype(np.float64)
    for bits in (1, 2, 3, 4):
        c = coded(Drive(bits), x).astype(np.float64)
        assert ((x - c) ** 2).sum() == pytest.approx((x**2).sum() - (c**2).sum(), rel=1e-4)
        assert (x * coded(Drive(bits, True), x)).sum() == pytest.approx((x**2).sum(), rel=1e-5)


def test_unbiased_on_dense_vectors() -> None:
    random, trials = np.random.default_rng(12), 400
    x = random.standard_normal(1024).astype(np.float32)
    for bits in (1, 3):
        draws = np.stack([coded(Drive(bits, True), x, seed) for seed in range(trials)]).astype(np.float64)
        z = (draws.mean(axis=0) - x) / (draws.std(axis=0) / math.sqrt(trials))
        assert abs((z**2).mean() - 1) < 0.25 and np.abs(z).max() < 5.5
        assert abs((z * np.sign(x)).mean()) < 5 / math.sqrt(len(x))


def test_scaling_by_powers_of_two_changes_the_scale_alone() -> None:
    x = np.random.default_rng(13).standard_normal(5000).astype(np.float32)
    for codec in CODECS:
        c = coded(codec, x)
        for exponent in (-60, -3, 100):
            assert np.array_equal(coded(codec, np.ldexp(x, exponent)), np.ldexp(c, exponent))


def test_streams() -> None:
    x = np.random.default_rng(14).standard_normal(4096).astype(np.float32)
    first, again, other_seed, other_step = (coded(Drive(1), x, *key) for key in ((1, 0), (1, 0), (2, 0), (1, 1)))
    assert np.array_equal(first, again) and not np.array_equal(first, other_seed) and not np.array_equal(first, other_step)


# ------------------------------------------------------------------------------------------ bodies no encoder writes


def refused(codec: Drive, n: int, body: np.ndarray) -> int:
    with pytest.raises(ValueError, match="no encoder writes that"):
        reference.decode_drive(codec, header(codec, n), body)
    return check(codec, n, body)


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_refused(codec: Drive) -> None:
    n = 4096 + 2
    x = np.random.default_rng(15).standard_normal(n)
    for bad in (np.nan, np.inf, -1.0, -0.0):
        for block in (0, 1):
            body = encode(codec, x)
            body[16 + 4 * block : 20 + 4 * block] = np.array([bad], "<f4").view(np.uint8)
            assert refused(codec, n, body) == 1
    body = encode(codec, x)
    body[14] = 1
    assert refused(codec, n, body) == 4
    if 2 * codec.bits % 8:
        body = encode(codec, x)
        body[-1] |= 0x80
        assert refused(codec, n, body) == 4
    for at in (24, 24 + 511, -1):
        body = encode(codec, x * 0)
        assert not body[16:].any()
        body[at] = 1
        assert refused(codec, n, body) == 3


def test_any_accepted_body_decodes_to_finite_values() -> None:
    random = np.random.default_rng(16)
    for n in (0, 1, 3, 17, 100, 4097):
        for codec in CODECS:
            for trial in range(6):
                body = random.integers(0, 256, codec._length(n, codec.bits, 0)).astype(np.uint8)
                if trial % 2:
                    body[12:16] = 0
                    body[16 : 16 + 4 * -(-n // 4096)] = np.full(-(-n // 4096), FLT_MAX, "<f4").view(np.uint8)
                if trial % 3:
                    body[-1:] &= 1
                if check(codec, n, body) == 0:
                    c = decode(codec, n, body)
                    assert np.isfinite(c).all()
                    assert c.tobytes() == reference.decode_drive(codec, header(codec, n), body).tobytes()
                else:
                    refused(codec, n, body)
