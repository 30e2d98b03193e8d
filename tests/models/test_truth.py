"""Truth read at points."""

import pytest
import torch
from torch.nn import functional

from nuriwake.models.truth import ObjectTruth, object_masks, sample_masks


def drawn(count: int, size: tuple[int, int], dtype: torch.dtype) -> ObjectTruth:
    """`count` objects in two layers, pixels strewn at random."""
    generator = torch.Generator().manual_seed(count)
    layer = torch.arange(count) % 2
    layers = torch.zeros((2, *size), dtype=dtype)
    for index in range(count):
        free = (layers[layer[index]] == 0) & (torch.rand(size, generator=generator) < 0.4)
        layers[layer[index]][free] = index + 1
    return ObjectTruth(torch.zeros(count, 4), torch.zeros(count).long(), torch.zeros(count).bool(), layers, layer)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_masks_read_at_points_are_those_of_grid_sample(dtype):
    truth = drawn(5, (9, 13), dtype)
    generator = torch.Generator().manual_seed(1)
    indices = torch.tensor([4, 0, 0, 3])
    x = torch.rand(4, 50, generator=generator) * 19 - 3
    y = torch.rand(4, 50, generator=generator) * 15 - 3
    grid = torch.stack([x / 13, y / 9], -1)[:, None] * 2 - 1
    dense = object_masks(truth, indices)[:, None].float()
    expected = functional.grid_sample(dense, grid, align_corners=False, padding_mode="zeros")[:, 0, 0]
    torch.testing.assert_close(sample_masks(truth, indices, x, y), expected, rtol=0, atol=1e-5)
    assert 0 < float(expected.mean()) < 1


def test_the_compiled_reading_is_that_of_tensors(monkeypatch):
    truth = drawn(5, (9, 13), torch.int16)
    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(5, 7, 6, generator=generator) * 19 - 3, torch.rand(5, 7, 6, generator=generator) * 15 - 3
    fast = sample_masks(truth, torch.arange(5), x, y)
    monkeypatch.setattr("nuriwake.models.truth.COMPILED_ON", "none")
    assert torch.equal(fast, sample_masks(truth, torch.arange(5), x, y))
