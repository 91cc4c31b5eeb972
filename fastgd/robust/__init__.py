"""Byzantine-robust aggregation: combine n vectors of which up to f may be arbitrary, even adversarial.

The room in one idea
--------------------
Every rule here is one or two passes over the data around a little logic:

* *Distance rules*: one pass gives the exact matrix D of squared distances (`pairwise_sqdist`), logic on D alone gives
  weights, one pass combines the vectors (`combine`). A subset is chosen by `krum`, `multikrum`, `mda`, `smea` and `monna`;
  `geometric_median`, `centered_clip` and `caf` weigh all vectors; `nnm` gives a row of weights for every vector. Nothing
  iterates in d dimensions: for v = sum_j w_j x_j with sum w = 1, ||v - x_i||^2 = (D w)_i - w'Dw / 2.
* *Coordinate-wise rules* (`median`, `trimmed_mean`, `meamed`): one pass sorts each coordinate's n values in a sorting
  network. `bulyan` is one of each: a subset by distances, then coordinate by coordinate.
* *Pre-aggregations* (`nnm`, `bucketing`, `arc`, `clip`) make vectors for a rule; `aggregate` joins them with a rule in one
  distance pass.
* `KrumState` follows vectors that change one at a time; `simhash`, `lshgm` and `hamming` compare vectors by a few bits.

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
``W``   mixing weights, y = W x; ``w`` the weights of one result
======= ======================================================================================================

``x`` is an (n, d) array, or a sequence of n arrays, or a sequence of n sequences of layer arrays (mixed shapes and
dtypes, never concatenated); a result has the structure, the array type and the dtype of one input vector. dtypes:
float32, float64, float16, bfloat16 (the two halves are widened in registers; results are rounded back). Arrays: NumPy,
torch, JAX on the host; torch, CuPy, Numba on CUDA. Inputs are never written to.

NaN and Inf. A distance rule drops a vector that has any: it is never selected and never averaged. A coordinate-wise rule
counts just that value, as +inf. More than f of them is a ValueError that names them. Finite vectors of any size, 1e38
included, are ordinary input.

Determinism: every function here is deterministic, with the same bits for every number of threads and every instruction
set (`smea` and `caf` as far as LAPACK's eigenvalues are); on CUDA the results agree with the CPU's within the error
budgets of docs/robust.md.

Where things are
----------------
=================== ==========================================================================================
public functions    `distances.py` (Krum), `coordinates.py`, `combinations.py`, `subsets.py` (Bulyan, MDA, SMEA, MoNNA),
                    `centers.py` (geometric median, centred clipping), `filters.py` (CAF), `mixing.py` (NNM, bucketing),
                    `clipping.py` (ARC), `composition.py` (`aggregate`), `state.py` (`KrumState`), `hashing/`
kernels             `reference.py` is the oracle (plain NumPy), `cpu.py` the front of csrc/robust.c, `cuda.py` that of the
                    GPU kernels in `cuda_*.py`
behind them         `search.py` finds best subsets, `blocks.py` makes mixed vectors block by block, `network.py` the GPU's
                    sorting networks
to test with        `attacks/`
the benchmark       `cases.py`, `exact.py` (results and error budgets), `peers.py`, `facts.py`
=================== ==========================================================================================
"""

from .._arrays import FLOATS
from .._dispatch import register

register("robust", ("pairwise_sqdist", "select", "combine", "median", "trimmed_mean", "nearest_mean", "sqdist_to", "scale"),
         ("cpu", "cuda", "reference"), FLOATS)
register("robust", ("pairwise_row",), ("cpu", "reference"), FLOATS)
register("robust", ("krum_scores", "geometric_median"), ("cpu", "cuda", "reference"), ("float64",))
register("robust", ("bulyan_select", "nearest"), ("cpu", "cuda", "reference"), ("float64",))

from . import attacks as attacks  # noqa: E402  (the rows above must stand in the table first)
from .centers import GeometricMedianInfo, centered_clip, geometric_median, geometric_median_weights  # noqa: E402
from .clipping import arc, clip  # noqa: E402
from .combinations import combine, mean  # noqa: E402
from .composition import AggregateInfo, aggregate  # noqa: E402
from .coordinates import meamed, median, trimmed_mean  # noqa: E402
from .distances import KrumInfo, krum, krum_scores, multikrum, pairwise_sqdist  # noqa: E402
from .filters import caf  # noqa: E402
from .hashing import hamming, lshgm, lshgm_choice, simhash  # noqa: E402
from .mixing import bucketing, nnm, nnm_weights  # noqa: E402
from .state import KrumState  # noqa: E402
from .subsets import bulyan, mda, monna, smea  # noqa: E402

__all__ = [
    "AggregateInfo", "GeometricMedianInfo", "KrumInfo", "KrumState", "aggregate", "arc", "bucketing", "bulyan", "caf",
    "centered_clip", "clip", "combine", "geometric_median", "geometric_median_weights", "hamming", "krum", "krum_scores",
    "lshgm", "lshgm_choice", "mda", "meamed", "mean", "median", "monna", "multikrum", "nnm", "nnm_weights",
    "pairwise_sqdist", "simhash", "smea", "trimmed_mean",
]
