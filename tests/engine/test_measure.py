"""The cost of a forward pass: memory that is held during it is seen, and the measuring ends."""

import sys
import time

import pytest
import torch
from torch import nn

from nuriwake.engine import measure as measuring
from nuriwake.engine.measure import measure, peak_memory


class Slow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        assert not torch.is_grad_enabled()
        assert not self.training
        time.sleep(0.02)
        return images


def test_the_median_of_some_calls_is_taken():
    model = Slow()
    cost = measure(model, torch.zeros(1, 3, 4, 4), rounds=3)
    assert model.calls == 5  # one warms up, one is watched for memory
    assert 0.02 <= cost.seconds < 2


def test_a_slow_model_is_not_called_again_and_again(monkeypatch):
    monkeypatch.setattr(measuring, "ENOUGH", 0.01)
    model = Slow()
    measure(model, torch.zeros(1, 3, 4, 4), rounds=50)
    assert model.calls == 3


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the peak resident set comes from /proc")
def test_memory_held_for_a_moment_is_counted():
    mebibyte = 2**20
    found = peak_memory(lambda: torch.ones(16 * mebibyte).sum(), torch.device("cpu"))
    assert 60 * mebibyte < found < 200 * mebibyte
    assert peak_memory(lambda: None, torch.device("cpu")) < 20 * mebibyte


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the peak resident set comes from /proc")
def test_memory_that_was_used_before_is_counted_again():
    mebibyte = 2**20
    torch.ones(30 * mebibyte // 4)  # freed, it has glibc put blocks of up to that size on the heap
    freed = [torch.ones(6 * mebibyte) for _ in range(6)]
    above = torch.ones(6 * mebibyte)  # keeps the heap from shrinking, so that their pages stay with the process
    del freed
    found = peak_memory(lambda: torch.ones(16 * mebibyte).sum(), torch.device("cpu"))
    assert 60 * mebibyte < found < 200 * mebibyte
    assert above[0] == 1
