"""The bare kernels of one call: its C calls, noted once and made again without anything around them.

What a public call costs beyond them is fastgd's own overhead: arguments, dispatch, pointers, the result's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def c_calls(front: Any, call: Callable[[], Any]) -> Callable[[], None]:
    """Run `call` once and return a function that repeats just the C functions it called, on the same memory.

    `front` is the room's `cpu` module, whose names `lib`, `_new` and `_from_buffer` are watched during that call.
    """
    from .._native import ffi

    notes: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    restores: list[tuple[Any, bytes]] = []
    alive: list[Any] = []  # all memory that the arguments point into

    class Watched:
        def __init__(self, lib: Any) -> None:
            self._lib = lib

        def __getattr__(self, name: str) -> Any:
            function = getattr(self._lib, name)
            if not callable(function):
                return function

            def noted(*arguments: Any) -> Any:
                for argument in arguments:
                    # A job counts the chunks taken: it must start anew at each repetition.
                    if isinstance(argument, ffi.CData) and ffi.typeof(argument) is ffi.typeof("fgd_job *") and argument:
                        restores.append((ffi.buffer(argument), bytes(ffi.buffer(argument))))
                notes.append((function, arguments))
                return function(*arguments)

            return noted

    def keeping(make: Callable[..., Any]) -> Callable[..., Any]:
        def kept(*arguments: Any) -> Any:
            alive.append((made := make(*arguments), arguments))
            return made

        return kept

    originals = {name: vars(front)[name] for name in ("lib", "_new", "_from_buffer") if name in vars(front)}
    vars(front).update({name: Watched(value) if name == "lib" else keeping(value) for name, value in originals.items()})
    try:
        alive.append(call())
    finally:
        vars(front).update(originals)

    def repeat(alive: Any = alive) -> None:
        for buffer, before in restores:
            buffer[:] = before
        for function, arguments in notes:
            function(*arguments)

    return repeat
