"""Runs cases: makes the inputs, verifies against the reference, times fastgd beside its peers, relates to the roofs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _threads
from .._dispatch import BACKENDS, BackendError, _environment, _environment_backend, kernels
from .case import ROOMS, Case, all_cases, room_cases, start_peer
from .roofs import CudaRoofs, Roofs, limited_threads
from .timing import SAMPLE_S, Timing, event_clock, interleaved, wall_clock

#: A reference predicted to take longer than this is not timed (it is still what results are verified against).
REFERENCE_LIMIT_S = 5.0
#: A reference this slow is run once, not sampled.
REFERENCE_ONCE_S = 0.3


@dataclass(frozen=True)
class Options:
    """What to run."""

    backends: tuple[str, ...] = ()  #: () for what "auto" would take on host arrays
    threads: tuple[int, ...] = ()  #: () for all
    peers: tuple[str, ...] | None = None  #: None for all
    check_only: bool = False
    min_time: float = 0.3


@dataclass
class Result:
    """One line of the report."""

    case: Case
    backend: str
    threads: int
    status: str = "ok"  #: "ok", "failed" (wrong result), "unavailable" (could not run)
    reason: str = ""
    check_error: float | None = None
    timing: Timing | None = None
    limit: tuple[float, str] | None = None  #: seconds the machine needs at least, and the roof that says so
    kernel: Timing | None = None  #: the bare kernel, for roof "call"
    reference_s: float | None = None
    peers: dict[str, Timing] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  #: peers not timed, and why

    @property
    def of_limit(self) -> float | None:
        """The share of the machine's limit that was reached."""
        return self.limit[0] / self.timing.median if self.limit and self.timing else None

    @property
    def vs_reference(self) -> float | None:
        """How many times faster than the reference."""
        return self.reference_s / self.timing.median if self.reference_s and self.timing else None

    @property
    def best_peer(self) -> tuple[str, float] | None:
        """The fastest peer and how many times faster than it fastgd is."""
        if not self.peers or not self.timing:
            return None
        name = min(self.peers, key=lambda name: self.peers[name].median)
        return name, self.peers[name].median / self.timing.median

    def as_json(self) -> dict[str, Any]:
        """The result as it stands in the JSON."""
        case, timing = self.case, self.timing
        overhead = timing.median - self.kernel.median if timing and self.kernel else None
        return {
            "room": case.room, "case": case.name, "backend": self.backend, "threads": self.threads,
            "median_s": timing and timing.median, "iqr_s": timing and timing.iqr,
            "of_limit": self.of_limit, "roof": self.limit[1] if self.limit else case.roof,
            "vs_reference": self.vs_reference,
            "peers": {name: {"median_s": peer.median, "ratio": peer.median / timing.median if timing else None,
                             "iqr_s": peer.iqr, "samples": peer.samples} for name, peer in self.peers.items()},
            "peers_missing": self.missing, "status": self.status, "reason": self.reason, "size": case.size,
            "dtype": case.dtype, "params": case.params, "nbytes": case.nbytes, "flops": case.flops,
            "items": case.items, "limit_s": self.limit and self.limit[0], "overhead_s": overhead, "reference_s": self.reference_s,
            "check_error": self.check_error, "samples": timing and timing.samples, "note": case.note,
        }


def backend_of_auto() -> str:
    """The backend that host arrays get: FASTGD_BACKEND, else "cpu", or "reference" where the C core is not built."""
    wanted = _environment_backend()
    return wanted if wanted != "auto" else "reference" if _environment("cpu") else "cpu"


def why_not(backend: str) -> tuple[str, ...]:
    """Reasons why a backend cannot run here at all."""
    if backend not in BACKENDS:
        return (f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}",)
    return _environment(backend)


def run_cases(cases: Sequence[Case], options: Options, roofs: dict[str, Roofs],
              progress: Callable[[Case], None] = lambda case: None) -> Iterator[Result]:
    """Verify and time the cases, one result per case, backend and number of threads."""
    backends = options.backends or (backend_of_auto(),)
    threads = options.threads or (_threads.available(),)
    for case in cases:
        progress(case)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # peers warn of deprecations and of NaN; neither is this run's business
            yield from _run_case(case, options, backends, threads, roofs)


def _run_case(case: Case, options: Options, backends: Sequence[str], threads: Sequence[int],
              roofs: dict[str, Roofs]) -> Iterator[Result]:
    try:
        host_inputs = case.setup()
        expected = case.reference(host_inputs)
    except ImportError as error:
        yield from (Result(case, backend, 1, "unavailable", f"not available: {error}") for backend in backends)
        return
    except Exception as error:  # one broken case must not end the run
        yield from (Result(case, backend, 1, "failed", f"{type(error).__name__}: {error}") for backend in backends)
        return
    reference_s: float | None = None
    for backend in backends:
        # The reference knows no threads, and on the GPU the host's threads do nothing.
        for count in threads if backend == "cpu" else threads[-1:]:
            result = Result(case, backend, count if backend == "cpu" else 1)
            inputs = host_inputs
            try:
                inputs = _to_device(case, host_inputs) if backend == "cuda" else host_inputs
                result.check_error = float(case.check(case.run(inputs, backend=backend, num_threads=count), expected))
            except (BackendError, ImportError) as error:
                result.status, result.reason = "unavailable", str(error).partition("\n")[0]
            except Exception as error:  # whatever it is, it is this case's result
                result.status, result.reason = "failed", f"{type(error).__name__}: {error}"
            else:
                if not result.check_error <= 1.0:
                    result.status = "failed"
                    result.reason = f"the result differs from the reference by {result.check_error:.3g} error budgets"
            if result.status == "ok" and not options.check_only:
                _time(result, inputs, host_inputs, options, roofs)
                if backend != "reference" and reference_s is None:
                    reference_s = _reference_seconds(case, host_inputs, options)
                result.reference_s = reference_s
            yield result


def _time(result: Result, inputs: dict[str, Any], host_inputs: dict[str, Any], options: Options,
          roofs: dict[str, Roofs]) -> None:
    """Fill in the times of a verified result."""
    case, backend, threads = result.case, result.backend, result.threads
    contestants = {"fastgd": lambda: case.run(inputs, backend=backend, num_threads=threads)}
    result.missing.update(case.left_out)
    first: dict[str, float] = {}
    if backend == "cpu":
        peers, first = _start_peers(result, host_inputs, options)
        contestants.update(peers)
        if case.kernel is not None:
            contestants["kernel"] = case.kernel(host_inputs)
    clock = event_clock if backend == "cuda" else wall_clock
    with limited_threads(threads):
        times = interleaved(contestants, min_time=options.min_time, clock=clock, first=first)
    result.timing, result.kernel = times.pop("fastgd"), times.pop("kernel", None)
    result.peers = times
    if backend != "reference":
        result.limit = roofs_of(roofs, backend).limit(case, threads)


def roofs_of(roofs: dict[str, Roofs], backend: str) -> Roofs:
    """The roofs of a backend, measured when first asked."""
    place = "cuda" if backend == "cuda" else "cpu"
    if place not in roofs:
        roofs[place] = CudaRoofs() if place == "cuda" else Roofs()
    return roofs[place]


def _start_peers(result: Result, inputs: dict[str, Any],
                 options: Options) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """The peers that are wanted and can do this case, and the time of one call; the others go to `missing`."""
    calls: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    for name, peer in result.case.peers.items():
        if options.peers is not None and name not in options.peers:
            continue
        try:
            with limited_threads(result.threads):  # a preparation may be work already
                call = start_peer(peer, {**inputs, "num_threads": result.threads})
            with limited_threads(result.threads):  # libraries that were imported above too
                answer, seconds = _answered(call)
            if result.case.judge and (wrong := result.case.judge(inputs, answer)):
                result.missing[name] = f"wrong: {wrong}, after {seconds:.3g} s"
                continue
            first[name] = seconds
        except ImportError:
            result.missing[name] = "not installed"
        except Exception as error:  # a peer that breaks must not end the run; its error is its result
            result.missing[name] = f"failed: {type(error).__name__}: {error}"[:200]
        else:
            calls[name] = call
    return calls, first


def _answered(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    answers: list[Any] = []
    seconds = wall_clock(lambda: answers.append(call()), 1)
    return answers[0], seconds


def _reference_seconds(case: Case, inputs: dict[str, Any], options: Options) -> float | None:
    """Time of backend="reference", None when it is predicted to take too long."""
    if case.reference_s > REFERENCE_LIMIT_S:
        return None

    def call() -> Any:
        return case.run(inputs, backend="reference", num_threads=1)

    try:
        first = wall_clock(call, 1)
        if first > REFERENCE_ONCE_S or first < SAMPLE_S / 1000:
            return first
        return interleaved({"reference": call}, min_time=min(options.min_time, 0.1))["reference"].median
    except BackendError:
        return None


def _to_device(case: Case, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with those named in `device_inputs` on the GPU."""
    return {name: _move(value) if name in case.device_inputs else value for name, value in inputs.items()}


def _move(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_move(part) for part in value]
    if hasattr(value, "cuda"):  # a torch tensor
        return value.cuda()
    if not isinstance(value, np.ndarray):
        return value
    try:
        import cupy
    except ImportError:
        from numba import cuda

        return cuda.to_device(value)
    return cupy.asarray(value)


def select(pattern: Callable[[str], Any] | None = None, *, rooms: Sequence[str] = ROOMS, sizes: Sequence[str] = (),
           shape: dict[str, int] | None = None, dtypes: Sequence[str] = ()) -> list[Case]:
    """The cases asked for. Without any wish: the default ones. With `shape`: made to measure by each room."""
    if shape:
        makers = [getattr(room_cases(room), "sized", None) for room in rooms]
        cases = [case for maker in makers if maker for case in maker(shape, tuple(dtypes) or ("float32",))]
    else:
        cases = [case for case in all_cases(rooms)
                 if (not sizes or case.size in sizes) and (not dtypes or case.dtype in dtypes)]
        if pattern is None and not sizes and not dtypes:
            cases = [case for case in cases if case.default]
    cases = [case for case in cases if pattern is None or pattern(case.full_name)]
    # Large inputs take minutes: only when asked for by size, or when nothing else is meant.
    quick = [case for case in cases if case.size != "large"]
    return cases if sizes or shape or not quick else quick


def registered_backends(function: Any) -> list[str]:
    """The backends that have kernels for everything a public function runs."""
    operations = [entry.partition(":")[0] for entry in getattr(function, "__fastgd_operations__", ())]
    rows = {(row.operation, row.backend) for row in kernels()}
    return [name for name in BACKENDS if operations and all((operation, name) in rows for operation in operations)]

