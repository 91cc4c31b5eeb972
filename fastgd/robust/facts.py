"""The room's rows of the README's kernel table: what does not depend on a measurement."""

from __future__ import annotations

from ..bench.case import KernelFacts

_FLOATS = "f32 f64 f16 bf16"
_ONE = "1 ulp"
KERNELS: list[KernelFacts] = [
    KernelFacts("robust", "pairwise_sqdist", "D_ij = Σ_c (x_ic - x_jc)²", "1 read, n(n-1)d", _FLOATS, "yes",
                "rel. 4e-6 (f64 1e-13)", "pairwise_sqdist/16x1e6", "arXiv:1703.02757"),
    KernelFacts("robust", "krum_scores", "s_i = Σ of the k smallest D_ij", "n² log² n", "f64", "yes", "n · 2⁻⁵³", ""),
    KernelFacts("robust", "krum", "x_i with the least s_i, k = n-f-2", "1 read, n(n-1)d", _FLOATS, "yes",
                "exact copy", "krum/16x1e6", "arXiv:1703.02757"),
    KernelFacts("robust", "multikrum", "mean of the m least s_i", "2 reads, n(n-1)d", _FLOATS, "yes", _ONE,
                "multikrum/16x1e6", "arXiv:1703.02757"),
    KernelFacts("robust", "trimmed_mean", "mean of ranks f … n-f-1 per coordinate", "1 read, d n log² n", _FLOATS,
                "yes", _ONE, "trimmed_mean/16x1e6", "arXiv:1803.01498"),
    KernelFacts("robust", "median", "middle value per coordinate", "1 read, d n log² n", _FLOATS, "yes",
                "½ ulp (odd n: exact)", "median/16x1e6", "arXiv:1803.01498"),
    KernelFacts("robust", "combine", "y_a = Σ_i W_ai x_i", "1 read, m n d", _FLOATS, "yes", _ONE, "combine/16x1e6"),
    KernelFacts("robust", "mean", "Σ w_i x_i / Σ w_i", "1 read", _FLOATS, "yes", _ONE, "mean/16x1e6"),
]
