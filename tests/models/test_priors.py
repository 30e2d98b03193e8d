"""Priors: where they lie, and the published mistake in their height."""

from math import sqrt

import pytest
import torch

from nuriwake.models.boxes import decode_boxes, encode_boxes
from nuriwake.models.priors import OFFSET_SCALE, corners, make_priors


def slow_priors(maps, sizes, ratios, square):
    """One prior after the other, as a loop over rows, columns and ratios says it."""
    rows = []
    for (height, width), size in zip(maps, sizes, strict=True):
        for j in range(height):
            for i in range(width):
                for ratio in ratios:
                    w, h = size * sqrt(ratio), size / sqrt(ratio)
                    rows.append(((i + 0.5) / width, (j + 0.5) / height, w, w if square else h))
    return torch.tensor(rows)


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("ratios", [(1.0,), (1.0, 0.5, 2.0)])
def test_priors_are_those_of_the_loop(square, ratios):
    maps, sizes = [(5, 7), (2, 3), (1, 1)], [0.1, 0.3, 0.7]
    found = make_priors(maps, sizes, ratios, square=square)
    assert found.dtype == torch.float32
    assert torch.allclose(found, slow_priors(maps, sizes, ratios, square), atol=1e-7)


def test_offsets_are_ssds():
    torch.manual_seed(0)
    priors = torch.rand(50, 4) * 0.5 + 0.1
    low = torch.rand(50, 2) * 0.5
    boxes = torch.cat((low, low + torch.rand(50, 2) * 0.5 + 0.01), dim=1)
    found = encode_boxes(boxes, corners(priors), OFFSET_SCALE)
    for (left, top, right, bottom), (x, y, w, h), offsets in zip(
        boxes.tolist(), priors.tolist(), found.tolist(), strict=True
    ):
        expected = torch.tensor(
            [
                ((left + right) / 2 - x) / (0.1 * w),
                ((top + bottom) / 2 - y) / (0.1 * h),
                torch.tensor((right - left) / w).log() / 0.2,
                torch.tensor((bottom - top) / h).log() / 0.2,
            ]
        )
        assert torch.allclose(torch.tensor(offsets), expected, rtol=1e-4, atol=1e-4)
    assert torch.allclose(decode_boxes(found, corners(priors), OFFSET_SCALE), boxes, atol=1e-5)
