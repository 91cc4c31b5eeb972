"""torch tensors through fastgd.compress: gradients in, payloads out as torch.uint8, the same bytes as NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd import compress

torch = pytest.importorskip("torch")
X = np.random.default_rng(0).standard_normal(1000).astype(np.float32)


@pytest.mark.parametrize("codec", [compress.TopK(10), compress.Sign(), compress.QSGD(), compress.Drive()], ids=repr)
def test_torch_in_torch_out(codec: compress.TopK) -> None:
    payload = compress.encode(codec, torch.from_numpy(X), seed=3)
    assert payload.dtype == torch.uint8
    assert payload.numpy().tobytes() == compress.encode(codec, X, seed=3).tobytes()
    decoded = compress.decode(payload)
    assert decoded.dtype == torch.float32
    assert decoded.numpy().tobytes() == compress.decode(payload.numpy()).tobytes()
    total = torch.zeros(1000)
    assert compress.decode_add([payload, payload], total, scale=0.5) is total
    assert torch.allclose(total, decoded)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_torch_halves(dtype: str) -> None:
    """The memory is float32, so what a half gradient leaves out is kept in full."""
    worker = compress.ErrorFeedback(compress.TopK(10), 1000)
    wide = compress.ErrorFeedback(compress.TopK(10), 1000)
    for _ in range(5):
        grad = torch.from_numpy(X).to(getattr(torch, dtype))
        assert worker.compress(grad).numpy().tobytes() == wide.compress(grad.float()).numpy().tobytes()
    assert worker.residual().tobytes() == wide.residual().tobytes()


def test_torch_out_and_votes() -> None:
    worker = compress.EF21(compress.Sign(), 1000)
    room = torch.empty(compress.Sign().max_nbytes(1000), dtype=torch.uint8)
    payload = worker.compress(torch.from_numpy(X), out=room)
    assert payload.data_ptr() == room.data_ptr()
    assert compress.majority_vote([payload, payload, payload]).numpy().tobytes() == payload.numpy().tobytes()


def test_torch_refusals() -> None:
    with pytest.raises(ValueError, match="detach"):
        compress.encode(compress.Sign(), torch.ones(3, requires_grad=True))
    with pytest.raises(ValueError, match="reshape"):
        compress.encode(compress.Sign(), torch.ones(3, 3))
    with pytest.raises(TypeError, match="uint8"):
        compress.decode(torch.ones(40))
