"""No rule needs memory that grows with the data beyond its result: 64 vectors of 500,000 coordinates, measured from outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

RULES = {
    "krum": "robust.krum(x, 12)",
    "multikrum": "robust.multikrum(x, 12)",
    "bulyan": "robust.bulyan(x, 12)",
    "median": "robust.median(x)",
    "trimmed_mean": "robust.trimmed_mean(x, 12)",
    "meamed": "robust.meamed(x, 12)",
    "geometric_median": "robust.geometric_median(x)",
    "centered_clip": "robust.centered_clip(x, radius=1.0, iterations=3)",
    "mda": "robust.mda(x, 2)",
    "smea": "robust.smea(x, 1)",
    "monna": "robust.monna(x, 12, 0)",
    "caf": "robust.caf(x, 12)",
    "mean": "robust.mean(x)",
    "nnm + krum": "robust.aggregate(x, 12, rule='krum', pre=('nnm',))",
    "arc + nnm + trimmed mean": "robust.aggregate(x, 12, rule='trimmed_mean', pre=('arc', 'nnm'))",
    "simhash": "robust.simhash(x, 64)",
}

SCRIPT = """
import resource, sys
import numpy as np
from fastgd import robust
block = np.random.default_rng(0).standard_normal((64, 1000), np.float32)
robust.mean(block)
def call(x):
    return {call}
call(block)  # what is loaded once is not counted
x = np.empty((64, 500_000), np.float32)
for k in range(500):
    x[:, 1000 * k : 1000 * (k + 1)] = block * (1 + k / 1000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
call(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("rule", RULES)
def test_peak_memory(rule: str) -> None:
    script = SCRIPT.replace("{call}", RULES[rule])
    kilobytes = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert kilobytes < 32 * 1024  # a quarter of the vectors
