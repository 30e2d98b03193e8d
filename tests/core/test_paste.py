"""Pasting beside PyTorch's own kernels: not one pixel differs."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.core.paste import paste_masks


def detectron2_paste(masks, boxes, size, threshold):
    """The rule of Detectron2's paste_masks_in_image on the CPU: each mask read by grid_sample in a window around its box."""
    out = torch.zeros((len(masks), *size), dtype=torch.bool)
    for canvas, mask, box in zip(out, torch.tensor(masks), torch.tensor(boxes), strict=True):
        x0, y0, x1, y1 = box
        left, top = (int(torch.clamp(value.floor() - 1, min=0)) for value in (x0, y0))
        right, bottom = (int(torch.clamp(value.ceil() + 1, max=most)) for value, most in ((x1, size[1]), (y1, size[0])))
        if left >= right or top >= bottom:
            continue
        x = (torch.arange(left, right, dtype=torch.float32) + 0.5 - x0) / (x1 - x0) * 2 - 1
        y = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)[None]
        read = functional.grid_sample(mask[None, None], grid, align_corners=False)[0, 0]
        canvas[top:bottom, left:right] = read >= threshold
    return out.numpy()


def random_case(seed, count, size, cells, *, smooth):
    generator = np.random.default_rng(seed)
    masks = generator.random((count, cells, cells), np.float32)
    if smooth:
        masks = (
            functional.interpolate(torch.rand(1, count, 5, 5), (cells, cells), mode="bicubic")[0].clamp(0, 1).numpy()
        )
    centre = generator.uniform(-0.1, 1.1, (count, 2)) * size[::-1]
    half = np.exp(generator.uniform(np.log(0.3), np.log(0.6 * max(size)), (count, 2)))
    return masks, np.concatenate([centre - half, centre + half], 1).astype(np.float32)


@pytest.mark.parametrize(
    ("seed", "size", "cells", "threshold", "smooth"),
    [
        (0, (120, 211), 28, 0.5, False),
        (1, (97, 64), 14, 0.3, True),
        (2, (33, 250), 1, 0.5, False),
        (3, (300, 400), 28, 0.5, True),
    ],
)
def test_aligned_is_detectron2s_rule(seed, size, cells, threshold, smooth):
    masks, boxes = random_case(seed, 30, size, cells, smooth=smooth)
    ours = paste_masks(masks, boxes, size, threshold)
    np.testing.assert_array_equal(ours.dense(), detectron2_paste(masks, boxes, size, threshold))


@pytest.mark.parametrize(("seed", "size", "cells"), [(0, (120, 211), 28), (1, (97, 64), 14), (3, (300, 400), 28)])
def test_torchvisions_rule(seed, size, cells):
    roi_heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    masks, boxes = random_case(seed, 30, size, cells, smooth=seed == 3)
    boxes = boxes.clip(0, [*size[::-1], *size[::-1]]).astype(np.float32)  # torchvision fails on boxes beyond the image
    theirs = roi_heads.paste_masks_in_image(torch.tensor(masks)[:, None], torch.tensor(boxes), size, padding=1)[:, 0]
    ours = paste_masks(masks, boxes, size, rule="torchvision")
    np.testing.assert_array_equal(ours.dense(), (theirs >= 0.5).numpy())


def test_whole_and_halved_boxes():
    """Values exactly on the threshold, edges exactly on pixels: where a >= and a > differ."""
    masks = np.tile(np.array([[1, 0.5], [0.5, 1]], np.float32), (4, 1, 1))
    boxes = np.array([[2, 2, 6, 6], [0, 0, 4, 8], [2.5, 2.5, 6.5, 6.5], [-2, -2, 12, 9]], np.float32)
    ours = paste_masks(masks, boxes, (9, 10)).dense()
    np.testing.assert_array_equal(ours, detectron2_paste(masks, boxes, (9, 10), 0.5))


def test_boxes_that_hold_nothing():
    masks = np.ones((4, 28, 28), np.float32)
    boxes = np.array([[5, 5, 5, 9], [9, 9, 2, 2], [50, 3, 60, 9], [-30, 3, -20, 9]], np.float32)
    assert paste_masks(masks, boxes, (20, 30)).areas().tolist() == [0, 0, 0, 0]
    assert len(paste_masks(masks[:0], boxes[:0], (20, 30))) == 0


@pytest.mark.parametrize(
    ("masks", "boxes", "threshold", "words"),
    [
        (np.ones((1, 3, 4), np.float32), np.zeros((1, 4), np.float32), 0.5, "float32 of the shape .N, m, m."),
        (np.ones((1, 3, 3)), np.zeros((1, 4), np.float32), 0.5, "found float64"),
        (np.ones((2, 3, 3), np.float32), np.zeros((1, 4), np.float32), 0.5, "Boxes of 2 masks"),
        (np.ones((1, 3, 3), np.float32), np.full((1, 4), np.nan, np.float32), 0.5, "finite"),
        (np.ones((1, 3, 3), np.float32), np.zeros((1, 4), np.float32), 0.0, "positive, found 0.0"),
    ],
)
def test_refusals(masks, boxes, threshold, words):
    with pytest.raises(UserError, match=words):
        paste_masks(masks, boxes, (9, 9), threshold)
