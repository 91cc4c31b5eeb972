"""Entropic optimal transport: fused Sinkhorn sweeps and a safeguarded sparse Newton method."""

from .._dispatch import register

register("sinkhorn", ("transport",), ("cpu", "reference"), ("float32", "float64"), folder="sweeps")
