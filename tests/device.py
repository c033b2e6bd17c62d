"""Where the kernels' tests run: on a CUDA device if there is one, else in Triton's interpreter on tensors of the CPU (conftest.py decides,
before anything imports Triton)."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the kernels need torch (CPU build: pip install torch==2.13.0+cpu) and triton")
pytest.importorskip("triton", reason="the kernels need triton")

from rerank_kernels.launch import interpreting  # noqa: E402

if not interpreting() and not torch.cuda.is_available():
    pytest.skip("there is a CUDA driver, but torch has no CUDA device: set TRITON_INTERPRET=1", allow_module_level=True)
DEVICE = torch.device("cpu" if interpreting() else "cuda")


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """An output that nobody wrote yet: NaN, or for integers their lowest."""
    fill = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).min
    return torch.full(shape, fill, dtype=dtype, device=DEVICE)


def unit(n: int, dim: int, seed: int) -> np.ndarray:
    """float32 [n, dim] of length 1."""
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)
