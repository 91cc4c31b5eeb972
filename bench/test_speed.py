"""Every tiny and small case under pytest-benchmark: `pytest bench --benchmark-enable --benchmark-group-by=group`.

FASTGD_BENCH_SIZES=medium,large chooses other sizes. Peers, limits and verification: `fastgd bench`.
"""

import os

import pytest

from fastgd.bench.runner import backend_of_auto, select

SIZES = tuple(os.environ.get("FASTGD_BENCH_SIZES", "tiny,small").split(","))


@pytest.mark.parametrize("case", select(sizes=SIZES), ids=lambda case: case.full_name)
def test_speed(benchmark, case):
    try:
        inputs = case.setup()
    except ImportError as error:
        pytest.skip(f"not available: {error}")
    benchmark.group = case.full_name
    backend = backend_of_auto()
    benchmark.extra_info.update(case.params, dtype=case.dtype, nbytes=case.nbytes, flops=case.flops, backend=backend)
    benchmark(case.run, inputs, backend=backend, num_threads=None)
