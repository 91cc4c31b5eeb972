"""The streams: elements start .. start + size - 1 of what (seed, step) determine."""

from __future__ import annotations

from typing import Any

from .. import _threads
from .._checks import count
from .._dispatch import Operand, find, requested, runs


@runs("random.bits32:uint32", array=False)
def bits32(seed: int, step: int, start: int, size: int, *, backend: str | None = None,
           num_threads: int | None = None) -> Any:
    """32 random bits an element: words of Philox 4x32-10, element i is W_0[i].

    Parameters
    ----------
    seed : int, 0 <= seed < 2^64
        Which stream.
    step : int, 0 <= step < 2^32
        Which part of the seed's streams; all of them are independent.
    start : int, at least 0
        Index of the first element.
    size : int, at least 0
        Number of elements; start + size <= 2^63.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    ndarray of uint32, shape (size,)
        With backend "cuda" a Numba device array.

    Raises
    ------
    TypeError, ValueError
        An argument is no integer (bool and float are none) or out of range; the message names it.

    Notes
    -----
    Cost: 5 multiplications of 32 bits an element, 4 bytes written. Deterministic: the same bits on every backend, for
    every number of threads; `bits32(s, t, 10, 5)` equals `bits32(s, t, 0, 15)[10:]`.

    References
    ----------
    Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011).

    Examples
    --------
    >>> import fastgd
    >>> [f"{word:08x}" for word in fastgd.random.bits32(seed=0, step=0, start=0, size=4)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    return _stream("random.bits32", "uint32", seed, step, start, size, backend, num_threads)


@runs("random.hash32:uint32", array=False)
def hash32(seed: int, step: int, start: int, size: int, *, backend: str | None = None,
           num_threads: int | None = None) -> Any:
    """32 mixed bits an element: a keyed bijection of the index in two multiplications; formula in the module's text.

    Statistical quality for stochastic rounding and signs at a fraction of Philox' cost. Within 2^32 consecutive indices
    (aligned) of one key no value comes twice, which independent draws would do.

    Parameters
    ----------
    seed : int, 0 <= seed < 2^64
        Which key.
    step : int, 0 <= step < 2^32
        Which key of that seed.
    start : int, at least 0
        Index of the first element.
    size : int, at least 0
        Number of elements; start + size <= 2^63.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    ndarray of uint32, shape (size,)
        With backend "cuda" a Numba device array.

    Raises
    ------
    TypeError, ValueError
        An argument is no integer (bool and float are none) or out of range; the message names it.

    Notes
    -----
    Cost: 2 multiplications of 32 bits an element, 4 bytes written. Deterministic: the same bits on every backend, for
    every number of threads and every `start`. Not cryptographic.

    References
    ----------
    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (OOPSLA 2014), for the key. C. Wellons:
    Prospecting for Hash Functions (2018), for the multipliers.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> bits = fastgd.random.hash32(seed=7, step=0, start=0, size=100_000)
    >>> x = np.float32(0.3)  # rounded up to 1 with probability 0.3
    >>> bool(abs(np.mean(x > bits * 2.0**-32) - 0.3) < 0.005)
    True
    """
    return _stream("random.hash32", "uint32", seed, step, start, size, backend, num_threads)


@runs("random.uniform:float32", array=False)
def uniform(seed: int, step: int, start: int, size: int, *, backend: str | None = None,
            num_threads: int | None = None) -> Any:
    """Uniform numbers in [0, 1): element i is (W_0[i] >> 8) / 2^24, made from the same word as element i of `bits32`.

    Parameters
    ----------
    seed : int, 0 <= seed < 2^64
        Which stream.
    step : int, 0 <= step < 2^32
        Which part of the seed's streams; all of them are independent.
    start : int, at least 0
        Index of the first element.
    size : int, at least 0
        Number of elements; start + size <= 2^63.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    ndarray of float32, shape (size,)
        Multiples of 2^-24, all equally likely. With backend "cuda" a Numba device array.

    Raises
    ------
    TypeError, ValueError
        An argument is no integer (bool and float are none) or out of range; the message names it.

    Notes
    -----
    Cost: 5 multiplications of 32 bits an element, 4 bytes written. Deterministic: the same bits on every backend, for
    every number of threads and every `start`.

    References
    ----------
    Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011).

    Examples
    --------
    >>> import fastgd
    >>> fastgd.random.uniform(seed=0, step=0, start=0, size=3)
    array([0.39904642, 0.88052016, 0.73571277], dtype=float32)
    >>> fastgd.random.uniform(seed=0, step=0, start=1, size=2)
    array([0.88052016, 0.73571277], dtype=float32)
    """
    return _stream("random.uniform", "float32", seed, step, start, size, backend, num_threads)


@runs("random.normal:float32", array=False)
def normal(seed: int, step: int, start: int, size: int, *, backend: str | None = None,
           num_threads: int | None = None) -> Any:
    """Standard normal numbers by Box-Muller: r cos(angle), r sin(angle) from two words; formula in the module's text.

    Parameters
    ----------
    seed : int, 0 <= seed < 2^64
        Which stream.
    step : int, 0 <= step < 2^32
        Which part of the seed's streams; all of them are independent.
    start : int, at least 0
        Index of the first element.
    size : int, at least 0
        Number of elements; start + size <= 2^63.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    ndarray of float32, shape (size,)
        With backend "cuda" a Numba device array.

    Raises
    ------
    TypeError, ValueError
        An argument is no integer (bool and float are none) or out of range; the message names it.

    Notes
    -----
    Cost: 5 multiplications of 32 bits and about 4 vector operations an element, 4 bytes written. The CPU
    kernel is within 1.25 ulp of the formula's exact value, every backend within 2 ulp. Deterministic: on the CPU the
    same bits for every number of threads, instruction set and `start`.

    References
    ----------
    Box, Muller: A Note on the Generation of Random Normal Deviates (1958). Salmon, Moraes, Dror, Shaw: Parallel Random
    Numbers: As Easy as 1, 2, 3 (SC 2011).

    Examples
    --------
    >>> import fastgd
    >>> z = fastgd.random.normal(seed=1, step=0, start=0, size=100_000)
    >>> bool(abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02)
    True
    """
    return _stream("random.normal", "float32", seed, step, start, size, backend, num_threads)


@runs("random.rademacher:float32", array=False)
def rademacher(seed: int, step: int, start: int, size: int, *, backend: str | None = None,
               num_threads: int | None = None) -> Any:
    """Random signs +1 and -1: element i is -1 where bit i mod 32 of W_1[i div 32] is set. One Philox block makes 128.

    Parameters
    ----------
    seed : int, 0 <= seed < 2^64
        Which stream.
    step : int, 0 <= step < 2^32
        Which part of the seed's streams; all of them are independent.
    start : int, at least 0
        Index of the first element.
    size : int, at least 0
        Number of elements; start + size <= 2^63.
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where to run; see `fastgd.use`.
    num_threads : int, optional
        Threads to use at most; see `fastgd.use`.

    Returns
    -------
    ndarray of float32, shape (size,)
        Of +1 and -1. With backend "cuda" a Numba device array.

    Raises
    ------
    TypeError, ValueError
        An argument is no integer (bool and float are none) or out of range; the message names it.

    Notes
    -----
    Cost: that of writing 4 bytes an element. Deterministic: the same bits on every backend, for every number of threads
    and every `start`.

    References
    ----------
    Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011).

    Examples
    --------
    >>> import fastgd
    >>> fastgd.random.rademacher(seed=0, step=0, start=0, size=4)
    array([-1., 1., -1., 1.], dtype=float32)
    """
    return _stream("random.rademacher", "float32", seed, step, start, size, backend, num_threads)


def _stream(operation: str, dtype: str, seed: Any, step: Any, start: Any, size: Any, backend: str | None,
            num_threads: int | None) -> Any:
    seed, step = checked_key(seed, step)
    start, size = count(start, "start", 0, 1 << 63), count(size, "size", 0, 1 << 63)
    if start + size > 1 << 63:
        raise ValueError(f"start + size must be at most 2^63, got start={start} and size={size}")
    # There is no array that could decide: the device is where the backend asked for lives.
    operand = Operand("cuda" if requested(backend) == "cuda" else "cpu", dtype)
    return find(operation, operand, backend)(seed, step, start, size, _threads.budget(num_threads, 4 * size))


def checked_key(seed: Any, step: Any) -> tuple[int, int]:
    return count(seed, "seed", 0, (1 << 64) - 1), count(step, "step", 0, (1 << 32) - 1)
