"""Shared fixtures. Numerical libraries get one thread each: the tests run side by side."""

import os
from pathlib import Path

import pytest

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

SHARED = Path(os.environ.get("NURIWAKE_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session", autouse=True)
def backward_before_anything_else() -> None:
    """One backward pass while there is no device but the processor.

    A graph that is exported pretends that there is a GPU. Were the first backward pass to come after that, PyTorch would start a
    thread for this GPU, and no process that is forked from then on, as the tests of killed trainings do, could learn.
    """
    import torch

    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and parity references beside the checkout; skips where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the folder of real data (../shared or NURIWAKE_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    """The folder of reference outputs of published implementations."""
    return shared / "parity"
