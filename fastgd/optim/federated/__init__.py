"""Federated learning: the steps of clients and the rounds of servers whose cost is a pass over the model.

=================== ================================================================ ================================
function            what it does                                                     method
=================== ================================================================ ================================
`pfedsop_step`      a client's personal step from its own and the global update      pFedSOP [Sen, Mohan 2025]
`firm_weights`      a client's weights of several objectives                         FIRM 2025
`fedsvd_refactor`   the server's new factors of a low-rank adapter, same product     FedSVD [Lee et al. 2025]
`br_mtrl_round`     the server's robust round for a shared representation            BR-MTRL [Le, Moothedath 2025]
=================== ================================================================ ================================

Models are NumPy, torch or JAX arrays on the host, or lists of layer arrays that are never concatenated; `br_mtrl_round`
takes device arrays as well. Sums of float32 and of the two halves are taken in float64.

Where things are: two kernels are its own, inner products and a step along two vectors: `cpu.py` (Numba) and `reference.py`
(the oracle); `gram.py` checks the first one's result. All other passes over models are kernels of `fastgd.robust`.
"""

from ..._arrays import FLOATS
from ..._dispatch import register

register("optim", ("gram", "step"), ("cpu", "reference"), FLOATS, folder="federated")

from .br_mtrl import br_mtrl_round  # noqa: E402  (the rows above must stand in the table first)
from .fedsvd import fedsvd_refactor  # noqa: E402
from .firm import FIRMInfo, firm_weights  # noqa: E402
from .pfedsop import PFedSOPInfo, pfedsop_step  # noqa: E402

__all__ = ["FIRMInfo", "PFedSOPInfo", "br_mtrl_round", "fedsvd_refactor", "firm_weights", "pfedsop_step"]
