"""Where a kernel runs: the kernel table, the choice, and the reasons for it.

A *kernel* is one row of the table: (operation, backend) -> a function in a room's `cpu.py`, `cuda.py` or `reference.py`,
imported when it is first chosen. Backends are named by place: "cpu", "cuda", "reference".

Priority of the choice: the call's `backend=`, then `with fastgd.use(backend=...)`, then the environment variable
FASTGD_BACKEND (read once), then "auto": the array decides. Nothing is ever copied between host and device to make a
choice possible, and nothing falls back in silence; a request that cannot be met is a `BackendError` with its reasons.
"""

from __future__ import annotations

import importlib
import operator
import os
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

BACKENDS = ("cpu", "cuda", "reference")
CHOICES = ("auto", *BACKENDS)


class BackendError(NotImplementedError):
    """No backend can run this call. `.reasons` maps each backend to the sentences that say why not."""

    def __init__(self, message: str, reasons: dict[str, tuple[str, ...]]) -> None:
        details = "".join(f"\n  {name}: {'; '.join(why)}" for name, why in reasons.items())
        super().__init__(message + details)
        self.reasons = reasons


class Operand(NamedTuple):
    """What dispatch needs to know of an argument."""

    device: str  # "cpu" or "cuda"
    dtype: str  # "float32", "float64", "float16", "bfloat16", ...


@dataclass(frozen=True)
class Kernel:
    """One row of the table."""

    operation: str  # "robust.median"
    backend: str  # "cpu"
    target: str  # "fastgd.robust.cpu:median"
    dtypes: tuple[str, ...]
    deterministic: bool = True

    def why_not(self, operand: Operand) -> tuple[str, ...]:
        """Every reason why this row cannot run on `operand` here; empty when it can."""
        reasons = list(_environment(self.backend))
        if self.backend == "cuda" and operand.device != "cuda":
            reasons.append("the input is a host array: move it first (torch: x.cuda(), CuPy: cupy.asarray(x))")
        if self.backend != "cuda" and operand.device == "cuda":
            reasons.append("the input is on the GPU: move it first (torch: x.cpu(), CuPy: x.get())")
        if operand.dtype not in self.dtypes:
            reasons.append(f"dtype {operand.dtype} is not one of {', '.join(self.dtypes)}")
        return tuple(reasons)

    def load(self) -> Callable[..., Any]:
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)


@cache
def _environment(backend: str) -> tuple[str, ...]:
    """Reasons that hold for a backend on this machine, whatever the operand."""
    if backend == "cpu":
        try:
            importlib.import_module("fastgd._c")
        except ImportError as error:
            return (f"the C core is not built ({error}): install gcc and python3-dev, then `pip install --force-reinstall "
                    "--no-deps fastgd` without FASTGD_BUILD_C=0",)
    if backend == "cuda":
        return importlib.import_module("fastgd._cuda").why_unavailable()
    return ()


# ---------------------------------------------------------------------------------------------------- the table

_table: dict[str, dict[str, Kernel]] = {}
_resolved: dict[tuple[str, str, Operand], Callable[..., Any]] = {}


def register(room: str, operations: tuple[str, ...], backends: tuple[str, ...], dtypes: tuple[str, ...],
             folder: str = "") -> None:
    """Add rows: `operations` x `backends` of a room, each found as `fastgd.<room>[.<folder>].<backend>:<operation>`."""
    place = f"{room}.{folder}" if folder else room
    for operation in operations:
        rows = _table.setdefault(f"{room}.{operation}", {})
        for backend in backends:
            rows[backend] = Kernel(f"{room}.{operation}", backend, f"fastgd.{place}.{backend}:{operation}", dtypes)


def kernels() -> list[Kernel]:
    """Every row of the table registered so far."""
    return [row for rows in _table.values() for row in rows.values()]


def find(operation: str, operand: Operand, backend: str | None = None) -> Callable[..., Any]:
    """The function that runs `operation` on `operand`; BackendError when the requested backend cannot."""
    choice = requested(backend)
    try:
        return _resolved[operation, choice, operand]
    except (KeyError, TypeError):  # TypeError: not hashable, so no backend's name
        function = _choose(operation, operand, check_backend(choice)).load()
        _resolved[operation, choice, operand] = function
        return function


def requested(backend: str | None) -> str:
    """The backend a call asks for: its own argument, the surrounding `use`, FASTGD_BACKEND, or "auto"."""
    return backend if backend is not None else _settings.get().backend or _environment_backend()


def check_backend(name: Any) -> str:
    """`name`, or an error that lists the choices."""
    if not isinstance(name, str):
        raise TypeError(f"backend must be one of {', '.join(CHOICES)}, got {name!r}")
    if name not in CHOICES:
        raise ValueError(f"backend must be one of {', '.join(CHOICES)}, got {name!r}")
    return name


def _candidates(operation: str, operand: Operand, requested: str) -> tuple[str, ...]:
    """The backends to try, in order. Auto: where the array is; the reference only if the C core was not built."""
    if requested != "auto":
        return (requested,)
    return ("cpu", "reference") if operand.device == "cpu" and _environment("cpu") else (operand.device,)


def _choose(operation: str, operand: Operand, requested: str) -> Kernel:
    # Reasons against backends that are not candidates are worked out for error messages only: they may import Numba.
    rows = _table[operation]
    for name in _candidates(operation, operand, requested):
        if name in rows and not rows[name].why_not(operand):
            if requested == "auto" and name == "reference":
                warnings.warn(f"fastgd runs {operation} in the slow NumPy reference: {_environment('cpu')[0]}",
                              RuntimeWarning, stacklevel=4)
            return rows[name]
    raise BackendError(f"no backend can run {operation} on a {operand.dtype} array on {operand.device} "
                       f"(requested: {requested})", _reasons(operation, operand, requested))


def _reasons(operation: str, operand: Operand, requested: str) -> dict[str, tuple[str, ...]]:
    """For each backend why it does not run the call: what it lacks, or that another was asked for or comes first."""
    rows = _table[operation]
    candidates = _candidates(operation, operand, requested)
    reasons = {}
    for name in BACKENDS:
        why = rows[name].why_not(operand) if name in rows else (f"no {name} kernel for {operation}",)
        if not why and name not in candidates:
            slow = "slow oracle, runs only on request: backend='reference'"
            why = (slow if requested == "auto" else f"backend={requested!r} was asked for",)
        reasons[name] = why
    return reasons


# ---------------------------------------------------------------------------------------------- the user's choice


def check_host(operation: str, backend: str | None) -> None:
    """An error where a function that has one implementation, plain Python on the host, is asked to run on the GPU."""
    if check_backend(requested(backend)) == "cuda":
        why = ("it runs on the host alone",)
        raise BackendError(f"no backend can run {operation} on cuda", {"cpu": ("backend='cuda' was asked for",), "cuda": why})


class _Settings(NamedTuple):
    backend: str | None = None
    num_threads: int | None = None
    outer: Any = None  # the _Settings to return to


_settings: ContextVar[_Settings] = ContextVar("fastgd", default=_Settings())  # noqa: B039 (a NamedTuple is immutable)


@cache
def _environment_backend() -> str:
    name = os.environ.get("FASTGD_BACKEND") or "auto"
    if name not in CHOICES:
        raise ValueError(f"the environment variable FASTGD_BACKEND must be one of {', '.join(CHOICES)}, got {name!r}")
    return name


def num_threads_in_use() -> int | None:
    """The `num_threads` of the innermost `use`, None outside."""
    return _settings.get().num_threads


class use:
    """Choose the backend and the number of threads for every fastgd call inside a `with` block.

    Parameters
    ----------
    backend : {"auto", "cpu", "cuda", "reference"}, optional
        Where kernels run. None keeps the surrounding choice.
    num_threads : int, optional
        Threads a call may use, at least 1. None keeps the surrounding choice.

    Notes
    -----
    Stored in a context variable: it holds for this thread or task alone. A call's own arguments override it. An object
    can be entered again and again, nested, and by several threads.

    Raises
    ------
    ValueError, TypeError
        Unknown backend; `num_threads` that is no integer of at least 1. Nothing has changed then.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> with fastgd.use(backend="reference", num_threads=1):
    ...     fastgd.robust.median(np.array([[1.0], [5.0], [2.0]]))
    array([2.])
    """

    def __init__(self, *, backend: str | None = None, num_threads: int | None = None) -> None:
        if backend is not None:
            check_backend(backend)
        if num_threads is not None:
            num_threads = check_num_threads(num_threads)
        self._own = _Settings(backend, num_threads)

    def __enter__(self) -> use:
        outer, own = _settings.get(), self._own
        _settings.set(_Settings(own.backend or outer.backend, own.num_threads or outer.num_threads, outer))
        return self

    def __exit__(self, *_: object) -> None:
        # The way back is kept in the context, not in self: threads and tasks may share one object.
        _settings.set(_settings.get().outer)


def check_num_threads(value: Any) -> int:
    """`value` as an integer of at least 1, or an error that names `num_threads`."""
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise TypeError(f"num_threads must be an integer of at least 1, got {value!r}")
    if count < 1:
        raise ValueError(f"num_threads must be an integer of at least 1, got {value!r}")
    return count


# -------------------------------------------------------------------------------------------------------- reasons


def runs(*operations: str, array: bool = True) -> Callable[[Any], Any]:
    """Mark a public function with the table operations it runs, for `explain`; `array`: whether it takes an array.

    "operation:dtype" says that the operation works on values of that dtype, whatever the argument's dtype is.
    """

    def mark(function: Any) -> Any:
        function.__fastgd_operations__ = operations
        function.__fastgd_array__ = array
        return function

    return mark


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Say which kernels a call would run and why the other backends are not chosen. Runs nothing.

    Parameters
    ----------
    function : callable
        A public function of fastgd, such as `fastgd.robust.krum`.
    *args, **kwargs
        The call's arguments; the first array argument and `backend=` matter.

    Returns
    -------
    str
        One block per operation, one line per backend: "chosen" or the reasons against it.

    Raises
    ------
    TypeError
        `function` runs no kernel of fastgd, or the argument is no array.

    Examples
    --------
    >>> import fastgd, numpy as np
    >>> print(fastgd.explain(fastgd.robust.median, np.ones((3, 2)), backend="reference"))
    robust.median on a float64 array on cpu (requested: reference)
      cpu        not chosen: backend='reference' was asked for
      cuda       not chosen: ...
      reference  chosen
    """
    operations = getattr(function, "__fastgd_operations__", None)
    if not operations:
        raise TypeError(f"explain needs a public fastgd function, got {function!r}")
    from ._arrays import first_operand

    arguments = (*args, *(value for key, value in kwargs.items() if key != "backend"))
    operand = first_operand(arguments) if getattr(function, "__fastgd_array__", True) else Operand("cpu", "float32")
    choice = check_backend(requested(kwargs.get("backend")))
    lines = []
    for entry in operations:
        operation, _, dtype = entry.partition(":")
        inner = operand._replace(dtype=dtype) if dtype else operand
        lines.append(f"{operation} on a {inner.dtype} array on {inner.device} (requested: {choice})")
        for name, why in _reasons(operation, inner, choice).items():
            lines.append(f"  {name:<10} {'not chosen: ' + '; '.join(why) if why else 'chosen'}")
    return "\n".join(lines)
