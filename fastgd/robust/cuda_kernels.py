"""Every kernel of the room with its types, compiled by the tests without a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cuda_combine import TOGETHER, make_combine_kernel
from .cuda_device import FORMATS
from .cuda_pairwise import make_pairwise_kernel, reduce_kernel
from .cuda_points import make_sqdist_to_kernel, total_kernel
from .cuda_ranks import make_block_kernel, make_nearest_register_kernel, make_register_kernel, make_tile_kernel
from .cuda_select import choose_kernel, copy_kernel, list_kernel, make_score_kernel
from .hashing.cuda_kernels import KERNELS as HASHING_KERNELS

#: (n, f) of the register kernels that stand for all, and registers at most in float32.
_SORTED = ((1, 0, 32), (5, 1, 32), (16, 4, 40), (32, 8, 56), (64, 31, 96), (64, 0, 96))
#: (n, window) of those for the nearest mean, likewise.
_NEAREST = ((1, 1, 32), (5, 4, 32), (16, 12, 48), (32, 24, 64), (64, 48, 96), (64, 1, 96))


def _kernels() -> list[tuple[Any, list[str], bool, int]]:
    """(kernel, signatures, whether float64 instructions are meant, registers at most) for every kernel and dtype."""
    found: list[tuple[Any, list[str], bool, int]] = []

    def add(kernel: Any, arguments: str, double: bool, most: int) -> None:
        found.append((kernel, [f"void({arguments})"], double, most))

    add(reduce_kernel, "float64[:,:,::1], float32[:,::1], int64, float64[:,::1], float32[::1]", True, 48)
    for shared in (True, False):
        add(make_score_kernel(shared), "float64[:,::1], float32[::1], int64, int64, float64[::1], float64[::1]", True, 48)
    add(choose_kernel, "float64[::1], float32[::1], int64, int64[::1]", True, 48)
    add(list_kernel, "int64[::1], float32[::1], int64[:,::1], float64[::1]", True, 48)
    add(total_kernel, "float64[:,::1], float32[:,::1], float64[::1]", True, 72)
    for form in FORMATS.values():
        double = form.real is np.float64
        wide = 2 if double else 1
        x, real, end = f"{form.element}[:,::1]", form.real.__name__, "int64, int64, int64[::1]"
        add(make_pairwise_kernel(form), f"{x}, int64, int64, float64[:,:,::1], float32[:,::1]", True, 168)
        add(copy_kernel, f"{x}, int64[:,::1], {x}", double, 32)
        for origin in (False, True):
            add(make_sqdist_to_kernel(form, origin), f"{x}, {x}, int64, int64, float64[:,::1], float32[:,::1]", True, 72)
        for width in (1, TOGETHER):
            add(make_combine_kernel(form, width),
                f"{x}, int64[:,::1], {real}[:,:,:,::1], {real}[:,:,::1], {x}, int64, int64[::1]", double, 80 if double else 64)
        plain = form.dtype == form.real.__name__  # the halves differ in how they load and store alone
        for near in (False, True) if plain else (True,):
            add(make_tile_kernel(form, near), f"{x}, int32[:,::1], int64, int64, {real}, {x}, {end}", double, 64)
            for shared in (True, False) if plain else (True,):
                add(make_block_kernel(form, near, shared), f"{x}, int64, int64, int64, {real}, {real}[::1], {x}, {end}",
                    double, 64)
        for n, f, most in _SORTED if plain else _SORTED[3:4]:
            add(make_register_kernel(form, n, f), f"{x}, {x}, {end}", double, most * wide)
        for n, window, most in _NEAREST if plain else _NEAREST[3:4]:
            add(make_nearest_register_kernel(form, n, window), f"{x}, {x}, {end}", double, most * wide)
    return found


KERNELS = _kernels() + HASHING_KERNELS
