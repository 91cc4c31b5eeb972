"""Checksums and headers of payloads on the GPU: CRC-32 of slices, shifted to their places."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

SLICE = 1024  #: bytes that one thread takes
_POLYNOMIAL = 0xEDB88320


def _times(a: int, b: int) -> int:
    """The product of two polynomials over GF(2) modulo CRC-32's; bit 31 is the coefficient of 1."""
    result = 0
    for bit in range(31, -1, -1):
        if b >> bit & 1:
            result ^= a
        a = a >> 1 ^ (_POLYNOMIAL if a & 1 else 0)
    return result


def _shifts(first: int, count: int) -> np.ndarray:
    """x^(first), squared again and again."""
    powers = [0x40000000]  # x
    for _ in range(first.bit_length() - 1):
        powers.append(_times(powers[-1], powers[-1]))
    power = powers[-1]
    result = []
    for _ in range(count):
        result.append(power)
        power = _times(power, power)
    return np.array(result, np.uint32)


_SHIFTS = _shifts(8 * SLICE, 32)


def after(crc: int, nbytes: int) -> int:
    """A checksum's register after so many zero bytes."""
    power = 0x00800000  # x^8
    while nbytes:
        if nbytes & 1:
            crc = _times(crc, power)
        power, nbytes = _times(power, power), nbytes >> 1
    return crc


@cuda.jit
def crc_kernel(data: Any, result: Any) -> None:
    """The CRC-32 register of `data`, starting from 0, into result[0], which starts as 0.

    Slices of SLICE bytes, counted from the end, a thread each; each is shifted by the bytes after it, and XOR joins them in any
    order. Reads the data.
    """
    table = cuda.shared.array(256, np.uint32)
    shifts = cuda.const.array_like(_SHIFTS)
    for entry in range(cuda.threadIdx.x, 256, cuda.blockDim.x):
        value = np.uint32(entry)
        for _ in range(8):
            odd = value & np.uint32(1)
            value = np.uint32(value >> np.uint32(1))
            if odd:
                value = np.uint32(value ^ np.uint32(_POLYNOMIAL))
        table[entry] = value
    cuda.syncthreads()
    mine = np.uint32(0)
    for part in range(cuda.grid(1), (data.size + SLICE - 1) // SLICE, cuda.gridsize(1)):
        end = data.size - part * SLICE
        crc = np.uint32(0)
        for i in range(max(0, end - SLICE), end):
            crc = np.uint32((crc >> np.uint32(8)) ^ table[np.int64((crc ^ np.uint32(data[i])) & np.uint32(255))])
        left, k = part, 0
        while left > 0:
            if left & 1:
                a, b, shifted = crc, shifts[k], np.uint32(0)
                for bit in range(32):
                    if (b >> np.uint32(31 - bit)) & np.uint32(1):
                        shifted = np.uint32(shifted ^ a)
                    odd = a & np.uint32(1)
                    a = np.uint32(a >> np.uint32(1))
                    if odd:
                        a = np.uint32(a ^ np.uint32(_POLYNOMIAL))
                crc = shifted
            left >>= 1
            k += 1
        mine = np.uint32(mine ^ crc)
    if mine != np.uint32(0):
        cuda.atomic.xor(result, 0, mine)


@cuda.jit
def seal_kernel(first: Any, second: Any, third: Any, fourth: Any, result: Any, payload: Any) -> None:
    """The 32 bytes of the header; result[0] joins the checksum, the upper half of `fourth`."""
    for at in range(cuda.grid(1), 32, cuda.gridsize(1)):
        word = fourth ^ (np.uint64(result[0]) << np.uint64(32))
        if at < 8:
            word = first
        elif at < 16:
            word = second
        elif at < 24:
            word = third
        payload[at] = np.uint8((word >> np.uint64(8 * (at % 8))) & np.uint64(255))


KERNELS: list[tuple[Any, list[str], bool, int | None]] = [
    (crc_kernel, ["void(uint8[::1], uint32[::1])"], False, None),
    (seal_kernel, ["void(uint64, uint64, uint64, uint64, uint32[::1], uint8[::1])"], False, None),
]
