"""Counter-based random numbers: element i of a stream is a function of (seed, step, i), wherever it is computed.

No state, no order: any part of a stream can be had at any time, on any number of threads, on the CPU and on CUDA. That
is what an optimiser needs that draws the same perturbation twice instead of storing it, or workers that must agree on
a random choice without sending it.

Notation
--------
=========== ================================================================================================
``seed``    which experiment, 0 <= seed < 2^64
``step``    which iteration of it, 0 <= step < 2^32
``i``       the element's index, start <= i < start + size <= 2^63
``P_s(b)``  block b of Philox 4x32-10 [Salmon et al. 2011]: four words of 32 bits. The key is seed (low word first), the
            counter (b mod 2^32, b div 2^32, step, s), where s = 0, 1, 2 are independent streams of one (seed, step)
``W_s[i]``  word i of that stream: word i mod 4 of P_s(i div 4)
=========== ================================================================================================

=============== ============================================================================ =======================
function        element i                                                                    bits agree
=============== ============================================================================ =======================
``bits32``      W_0[i]                                                                       on all backends
``uniform``     (W_0[i] >> 8) / 2^24                                                         on all backends
``rademacher``  1 - 2 (bit i mod 32 of W_1[i div 32])                                        on all backends
``normal``      Box-Muller on the pair W_2[i - i mod 2], W_2[i - i mod 2 + 1]                CPU: always; to 2 ulp else
``hash32``      a keyed mix of i in two multiplications, weaker, several times faster        on all backends
``perturb_``    x_i + scale * noise_i, in place                                              as its noise
=============== ============================================================================ =======================

Box-Muller, for words a and b: r = sqrt(-2 ln(float32(a) / 2^32)), with 2^-33 instead of 0, so |z| < 6.77; the angle is
2 pi b / 2^32, reduced exactly in integers; elements are r cos(angle), r sin(angle).

``hash32``: with F the finaliser of SplitMix64, key = F(F(seed) + (step + 1) * 0x9E3779B97F4A7C15); m = mix(i div 2^32);
x = (i mod 2^32) ^ lo(key) ^ m; x = (x ^ x >> 16) * 0x7FEB352D ^ (hi(key) + m); x = (x ^ x >> 15) * 0x846CA68B; the
result is x ^ x >> 16. The multipliers are Wellons' "lowbias32", which is mix itself. For one key it is a bijection of
each 2^32 consecutive indices: no value comes twice. Meant for stochastic rounding and signs, where speed is all.

Statistical, not cryptographic: from some outputs others can be computed. Noise that must keep a secret (differential
privacy) needs the operating system's generator.

Determinism: the same bits for every number of threads and every instruction set.

Where things are: `streams.py` and `perturbation.py` are the public functions, `reference.py` is the oracle (plain
NumPy), `cpu.py` the front of csrc/random.c, `cuda.py` the GPU kernels, `scalar.py` the same functions for one element,
for your own Numba code; `cases.py` the benchmark's inputs, peers and error budgets.

References
----------
Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011). Box, Muller: A Note on the Generation
of Random Normal Deviates (1958). Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (OOPSLA 2014).
"""

from .._dispatch import register

_BACKENDS = ("cpu", "cuda", "reference")
register("random", ("bits32", "hash32"), _BACKENDS, ("uint32",))
register("random", ("uniform", "normal", "rademacher"), _BACKENDS, ("float32",))
register("random", ("perturb_",), _BACKENDS, ("float32", "float64"))

from .perturbation import perturb_  # noqa: E402  (the rows above must stand in the table first)
from .streams import bits32, hash32, normal, rademacher, uniform  # noqa: E402

__all__ = ["bits32", "hash32", "normal", "perturb_", "rademacher", "uniform"]
