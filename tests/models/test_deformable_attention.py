"""Multi-scale deformable attention against its definition, written as loops."""

import math

import pytest
import torch

from nuriwake.models.deformable_attention import DeformableAttention, gather_bags, gather_grids

SIZES = [(3, 5), (6, 10), (1, 1)]
BOTH = pytest.mark.parametrize("gather", [gather_grids, gather_bags])


def bilinear(level, x, y):
    """What lies at (x, y), in pixels with centres at .5, of a map (h, w, D); 0 beyond its border."""
    height, width = level.shape[:2]
    total = torch.zeros(level.shape[2], dtype=level.dtype)
    for row in range(math.floor(y - 0.5), math.floor(y - 0.5) + 2):
        for column in range(math.floor(x - 0.5), math.floor(x - 0.5) + 2):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
                total = total + share * level[row, column]
    return total


def definition(values, sizes, places, weights):
    """Equation 3 of the paper: for each head the weighted sum of what lies at its points on every level."""
    levels, start = [], 0
    for height, width in sizes:
        levels.append(values[:, start : start + height * width].unflatten(1, (height, width)))
        start += height * width
    batch, queries, heads, _, points = weights.shape
    found = torch.zeros(batch, queries, heads, values.shape[-1], dtype=values.dtype)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                for index, (height, width) in enumerate(sizes):
                    for k in range(points):
                        x, y = places[b, q, m, index, k].tolist()
                        seen = bilinear(levels[index][b, :, :, m], x * width, y * height)
                        found[b, q, m] += weights[b, q, m, index, k] * seen
    return found.flatten(2)


def drawn(dtype=torch.float64, queries=7):
    generator = torch.Generator().manual_seed(0)
    area = sum(height * width for height, width in SIZES)
    values = torch.randn(2, area, 3, 4, generator=generator, dtype=dtype)
    # From well outside to well outside, with a few exactly on borders and centres.
    places = torch.rand(2, queries, 3, len(SIZES), 2, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    places[0, 0, 0] = torch.tensor([0.0, 1.0], dtype=dtype)
    places[0, 0, 1] = 0.5
    places[0, 0, 2] = torch.tensor([-50.0, 1e6], dtype=dtype)
    weights = torch.randn(2, queries, 3, len(SIZES), 2, generator=generator, dtype=dtype)
    return values, places, weights


@BOTH
def test_it_is_the_definition(gather):
    values, places, weights = drawn()
    assert torch.allclose(
        gather(values, SIZES, places, weights), definition(values, SIZES, places, weights), atol=1e-12
    )


def test_both_ways_have_the_same_gradients():
    gradients = []
    for gather in (gather_grids, gather_bags):
        inputs = [item.requires_grad_() for item in drawn()]
        values, places, weights = inputs
        gather(values, SIZES, places, weights).square().sum().backward()
        gradients.append([item.grad for item in inputs])
    for mine, other in zip(*gradients, strict=True):
        assert torch.allclose(mine, other, atol=1e-10)
        assert mine.abs().max() > 0


def test_the_gradients_are_those_of_the_function():
    generator = torch.Generator().manual_seed(0)
    sizes, shape = [(2, 3), (1, 2)], (1, 2, 2, 2, 2)
    values = torch.randn(1, 8, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    places = torch.rand(*shape, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *items: gather_bags(items[0], sizes, *items[1:]), (values, places, weights))


def attention(channels=8, heads=4):
    torch.manual_seed(0)
    return DeformableAttention(channels, heads=heads, levels=len(SIZES), points=2)


def test_the_layer_asks_and_reads_as_the_paper_says():
    layer = attention()
    for part in (layer.offsets, layer.weights):
        torch.nn.init.normal_(part.weight, std=0.5)
    area = sum(height * width for height, width in SIZES)
    queries, values, centres = torch.randn(2, 5, 8), torch.randn(2, area, 8), torch.rand(5, 2)
    offsets = layer.offsets(queries).view(2, 5, 4, 3, 2, 2)
    weights = layer.weights(queries).view(2, 5, 4, 6).softmax(-1).view(2, 5, 4, 3, 2)
    extents = torch.tensor([[width, height] for height, width in SIZES])
    places = centres[None, :, None, None, None] + offsets / extents[None, None, None, :, None]
    heads = layer.value(values).view(2, area, 4, 2)
    expected = layer.output(definition(heads, SIZES, places, weights))
    assert torch.allclose(layer(queries, centres, values, SIZES), expected, atol=1e-5)


def test_fresh_heads_look_around_a_ring():
    """Eight heads: right, down right, down, ...; the n-th point n cells away in the direction's longer coordinate."""
    layer = DeformableAttention(32, heads=8, levels=3, points=4)
    ring = layer.offsets.bias.view(8, 3, 4, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(directions):
        for point in range(4):
            expected = torch.tensor(direction, dtype=torch.float32) * (point + 1)
            assert torch.allclose(ring[head, :, point], expected.expand(3, 2), atol=1e-5)
    for part in (layer.offsets.weight, layer.weights.weight, layer.weights.bias, layer.value.bias, layer.output.bias):
        assert not part.any()
    assert layer.value.weight.abs().max() <= (6 / 64) ** 0.5


def test_it_reads_bfloat16_at_full_precision_places():
    """Places in bfloat16 would be a cell off on a map of 300 cells."""
    layer = DeformableAttention(8, heads=4, levels=1, points=2)
    values = torch.randn(1, 300, 8)
    centres = torch.stack([(torch.arange(300) + 0.5) / 300, torch.full((300,), 0.5)], dim=-1)
    with torch.no_grad():
        plain = layer(values, centres, values, [(1, 300)])
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(values, centres, values, [(1, 300)])
    assert half.dtype == torch.bfloat16
    assert (half.float() - plain).abs().max() < 0.05 * plain.abs().max()
