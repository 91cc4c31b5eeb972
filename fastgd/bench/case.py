"""What a benchmark case is, what a peer is, and what a kernel's row in the README says."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

ROOMS = ("robust", "compress", "dro", "sinkhorn", "random")
SIZES = ("tiny", "small", "medium", "large")


@dataclass(frozen=True)
class Case:
    """One input on which one operation is verified and timed.

    A peer (another library doing the same work) is a function of the inputs that does the work and may import its
    library on the way. Where something must be prepared first, such as a conversion that is not to be timed, the
    function is marked `@prepared` and returns a callable without arguments that does the work. Peers see one more
    input, `num_threads`, for libraries that take it as an argument. ImportError means "not installed".

    An operation that changes an input in place must have a `reference` that does not: the reference comes first.
    """

    room: str
    name: str  #: "krum/16x1e6": operation / input
    size: str  #: one of SIZES
    dtype: str
    params: dict[str, Any]
    setup: Callable[[], dict[str, Any]]  #: the inputs; ImportError means "not available here"
    run: Callable[..., Any]  #: run(inputs, backend=..., num_threads=...)
    reference: Callable[[dict[str, Any]], Any]  #: what `run` should return
    check: Callable[[Any, Any], float]  #: (result, expected) -> error in units of the error budget; <= 1 passes
    nbytes: int  #: bytes that must be read (roof "copy": read and written; "lines": that the lines are scattered over)
    flops: int  #: operations, a vector operation counted as one fused multiply-add, that is 2
    roof: str  #: what limits it: "read", "copy", "flops" (the slower of read and arithmetic), "call" (the overhead), "lines"
    peers: dict[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)
    note: str = ""
    paper: str = ""
    left_out: dict[str, str] = field(default_factory=dict)  #: peers not run on this input, and why
    kernel: Callable[[dict[str, Any]], Callable[[], Any]] | None = None  #: the bare kernel, prepared; for roof "call"
    reference_s: float = 0.0  #: predicted time of backend="reference", 0 when it is short
    #: (inputs, a peer's answer) -> what is wrong with it, "" where it counts; for peers that may end without an answer
    judge: Callable[[dict[str, Any], Any], str] | None = None
    default: bool = True  #: part of a run without arguments
    items: int = 0  #: draws, updates, .. of one call, where the time of one is what counts; roof "lines": a cache line each
    device_inputs: tuple[str, ...] = ("x",)  #: the inputs that backend "cuda" wants on the device

    @property
    def full_name(self) -> str:
        """ "robust/krum/16x1e6": what FILTER is matched against."""
        return f"{self.room}/{self.name}"

    @property
    def operation(self) -> str:
        """ "krum" """
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class KernelFacts:
    """A public function's row in the README: what does not depend on a measurement."""

    room: str
    name: str
    formula: str
    cost: str
    dtypes: str
    deterministic: str
    budget: str
    case: str  #: name of the case whose measured numbers stand in the row; "" for none
    paper: str = ""


def prepared(peer: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Mark a peer that prepares and returns a callable without arguments; see `Case`."""
    peer.__fastgd_prepared__ = True  # type: ignore[attr-defined]
    return peer


def start_peer(peer: Callable[[dict[str, Any]], Any], inputs: dict[str, Any]) -> Callable[[], Any]:
    """The callable without arguments that does a peer's work on these inputs."""
    return peer(inputs) if hasattr(peer, "__fastgd_prepared__") else lambda: peer(inputs)


def room_cases(room: str) -> Any:
    """A room's module of cases: `CASES`, perhaps `KERNELS`, perhaps `sized(n, d, dtypes)`."""
    return importlib.import_module(f"fastgd.{room}.cases")


def all_cases(rooms: Iterable[str] = ROOMS) -> list[Case]:
    """The cases of the rooms, in the rooms' order."""
    return [case for room in rooms for case in room_cases(room).CASES]
