"""The likeliest class of an enlarged map, beside enlarging all of them."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from nuriwake.core.labels import LabelSpace
from nuriwake.inference.decoding import decode_pixels
from nuriwake.inference.likeliest import likeliest


@pytest.mark.parametrize("after", [(70, 95), (9, 13), (5, 6), (9, 40)])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("thresholds", [(), (0.3, 0.9, 0.2, 0.5, 0.4, 0.7)])
def test_as_enlarging_all_and_taking_the_largest(after, background, thresholds):
    classes = 5 if background else 6
    small = torch.rand(classes, 9, 13, generator=torch.Generator().manual_seed(1)) ** 3
    small = small / small.sum(0) * torch.rand(9, 13) * 1.3
    large = functional.interpolate(small[None], size=after, mode="bilinear")[0]
    if background:
        large = torch.cat([(1 - large.sum(0, keepdim=True)).clamp_min(0), large])
    large = large / large.sum(0)
    space = LabelSpace(tuple(f"class {index}" for index in range(6)))
    labels, scores = decode_pixels(large, space, thresholds)
    parts = list(likeliest(small.split(4, dim=1), (9, 13), after, background=background, thresholds=thresholds))
    found, certain = (np.concatenate([part[index] for part in parts]) for index in (1, 2))
    weighed = large / torch.tensor(thresholds or (1.0,) * 6)[:, None, None]
    best = weighed.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    assert clear.mean() > 0.98
    assert np.array_equal(found[clear], labels[clear])
    np.testing.assert_allclose(certain[clear], scores[clear], atol=1e-5)
    if after == (70, 95):
        assert [part.top for part in parts] == [0, 64]
