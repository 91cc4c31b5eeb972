"""What the references of all codecs share: the input, the memory, and sums in the lanes of docs/wire.md."""

from __future__ import annotations

import numpy as np

from .state import FEEDBACK, PLAIN, State, Vector

LANES, CHUNK = 32, 2048


def to_float32(x: Vector) -> np.ndarray:
    """The vector's values, exactly."""
    if x.dtype == "bfloat16":
        return (x.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return x.data.astype(np.float32)


def codec_input(x: Vector, state: State, mode: int) -> np.ndarray:
    """p = x, memory + x or x - memory."""
    g = to_float32(x)
    with np.errstate(over="ignore", invalid="ignore"):
        return g if mode == PLAIN else state.memory + g if mode == FEEDBACK else g - state.memory


def update_memory(state: State, mode: int, p: np.ndarray, c: np.ndarray) -> None:
    """memory = p - c, or memory + c."""
    if mode != PLAIN and state.memory is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            state.memory[...] = p - c if mode == FEEDBACK else state.memory + c


def total(values: np.ndarray) -> float:
    """The sum of float32 values in double: 32 lanes a chunk of 2048, folded in halves, then the chunks' sums likewise."""
    chunks = [_lanes(values[at : at + CHUNK].astype(np.float64)) for at in range(0, len(values), CHUNK)]
    return _lanes(np.array(chunks, np.float64))


def lane_sum(values: np.ndarray) -> float:
    """The same of one chunk, however long: a bucket's sum."""
    return _lanes(values.astype(np.float64))


def _lanes(values: np.ndarray) -> float:
    rows = -(-len(values) // LANES)
    padded = np.zeros(max(rows, 1) * LANES)
    padded[: len(values)] = values
    lane = np.zeros(LANES)
    for row in padded.reshape(-1, LANES):
        lane += row
    while len(lane) > 1:
        half = len(lane) // 2
        lane = lane[:half] + lane[half:]
    return float(lane[0])


def refuse(condition: bool, reason: str) -> None:
    """ValueError where a body holds what no encoder writes."""
    if condition:
        raise ValueError(f"the payload's body {reason}: no encoder writes that")


def unpack_bits(body: np.ndarray, n: int) -> np.ndarray:
    """n bits, the least significant first; ValueError where bits are set beyond the last."""
    bits = np.unpackbits(body[: -(-n // 8)], bitorder="little")
    refuse(bool(bits[n:].any()), "has bits set beyond the last coordinate")
    return bits[:n].astype(np.bool_)


