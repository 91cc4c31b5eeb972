"""Byzantine-robust aggregation: combine n vectors of which up to f may be arbitrary, even adversarial.

The room in one idea
--------------------
Every rule here is one or two passes over the data around a little logic:

* *Distance rules* (`krum`, `multikrum`): one pass gives the exact matrix D of squared distances (`pairwise_sqdist`),
  logic on D alone picks weights (`krum_scores`), one pass combines the picked vectors (`combine`).
* *Coordinate-wise rules* (`median`, `trimmed_mean`): one pass sorts each coordinate's n values in a pruned sorting network.

Notation
--------
======= ======================================================================================================
``n``   vectors (workers, clients)                         [Blanchard et al. 2017]
``d``   coordinates of a vector
``f``   vectors that may be Byzantine, declared by the caller
``x``   the vectors: x_1 .. x_n in R^d
``D``   squared distances, D_ij = ||x_i - x_j||^2, float64
``k``   neighbours counted by a Krum score (`neighbors`), n - f - 2 in the paper
``m``   vectors averaged by Multi-Krum
======= ======================================================================================================

``x`` is an (n, d) array, or a sequence of n arrays, or a sequence of n sequences of layer arrays (mixed shapes and
dtypes, never concatenated); a result has the structure, the array type and the dtype of one input vector. dtypes:
float32, float64, float16, bfloat16 (the two halves are widened in registers; results are rounded back). Arrays: NumPy,
torch, JAX on the host; torch, CuPy, Numba on CUDA. Inputs are never written to.

NaN and Inf. A distance rule drops a vector that has any: it is never selected and never averaged. A coordinate-wise rule
counts just that value, as +inf. More than f of them is a ValueError that names them. Finite vectors of any size, 1e38
included, are ordinary input.

Determinism: every function here is deterministic, with the same bits for every number of threads and every instruction
set; on CUDA the results agree with the CPU's within the error budget of `cases.py`.

Where things are: `reference.py` is the oracle (plain NumPy), `cpu.py` the front of csrc/robust.c, `cuda.py` the GPU
kernels, `network.py` the sorting networks both use, `cases.py` the benchmark's inputs, peers and error budgets.
"""

from .._arrays import FLOATS
from .._dispatch import register

register("robust", ("pairwise_sqdist", "select", "combine", "median", "trimmed_mean"), ("cpu", "cuda", "reference"), FLOATS)
register("robust", ("nearest_mean", "sqdist_to"), ("cuda", "reference"), FLOATS)
register("robust", ("krum_scores",), ("cpu", "cuda", "reference"), ("float64",))

from . import attacks as attacks  # noqa: E402  (the rows above must stand in the table first)
from .combinations import combine, mean  # noqa: E402
from .coordinates import median, trimmed_mean  # noqa: E402
from .distances import KrumInfo, krum, krum_scores, multikrum, pairwise_sqdist  # noqa: E402

__all__ = ["KrumInfo", "combine", "krum", "krum_scores", "mean", "median", "multikrum", "pairwise_sqdist", "trimmed_mean"]
