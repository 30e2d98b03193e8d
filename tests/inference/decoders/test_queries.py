"""The decoders of queries beside dense twins of the published rules, and beside transformers' where that is installed."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.inference import strips
from nuriwake.inference.decoders.queries import (
    InstanceQueryDecoder,
    PanopticQueryDecoder,
    SemanticQueryDecoder,
)
from nuriwake.inference.decoding import Pass, Request, find_decoder
from nuriwake.inference.settings import PredictSettings
from nuriwake.inference.tiling import Grid
from nuriwake.models.outputs import QueryOutput

SPACE = LabelSpace(("cat", "sky", "dog", "road"), (True, False, True, False))
SEEN, PADDED, SIZE = (48, 64), (64, 64), (75, 100)
"""The image as the model saw it, with padding, and as the user has it."""


def some_output(queries=12, classes=4, sharp=6.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, queries, 4, 4, generator=generator)
    masks = sharp * functional.interpolate(coarse, size=(16, 16), mode="bicubic")
    return QueryOutput(sharp * torch.randn(1, queries, classes + 1, generator=generator), masks)


def decode(decoder, output, *, space=SPACE, size=SIZE, settings=None, watch=None):
    grid = Grid(SEEN, PADDED, 0, (0,), (0,))
    request = Request(size, "any", space, settings or PredictSettings(), watch)
    return decoder([Pass(grid, ("none",), iter([(output, 0)]))], request)


def full_size(values, size=SIZE):
    """Maps (1, n, h, w) over the padded input -> (n, *size), as published: to the input, without padding, to the image."""
    values = functional.interpolate(values, size=PADDED, mode="bilinear")[..., : SEEN[0], : SEEN[1]]
    return functional.interpolate(values, size=size, mode="bilinear")[0]


@pytest.fixture
def small_strips(monkeypatch):
    """So that a small image is many strips."""
    monkeypatch.setattr(strips, "VALUES_AT_ONCE", 3000)


def semantic_scores(output):
    weights = output.class_logits[0].softmax(-1)[:, :-1]
    masks = functional.interpolate(output.mask_logits, size=PADDED, mode="bilinear").sigmoid()
    scores = torch.einsum("qc,qhw->chw", weights, masks[0])[:, : SEEN[0], : SEEN[1]]
    return functional.interpolate(scores[None], size=SIZE, mode="bilinear")[0]


def test_semantic_is_the_published_sum(small_strips):
    output = some_output()
    seen = []
    found = decode(SemanticQueryDecoder(), output, watch=lambda top, strip: seen.append((top, strip.clone())))
    scores = semantic_scores(output)
    scores = scores / scores.sum(0)
    best = scores.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    assert clear.mean() > 0.99
    assert np.array_equal(found.labels[clear], scores.argmax(0).numpy()[clear])
    assert found.scores == pytest.approx(best[0].numpy(), abs=1e-5)
    assert len(seen) > 5
    torch.testing.assert_close(torch.cat([strip for _, strip in seen], dim=1), scores, atol=1e-5, rtol=1e-5)


def test_semantic_of_two_classes_and_of_several_at_once():
    space = LabelSpace(("background", "tumour"))
    output = some_output(classes=2)
    scores = semantic_scores(output)
    share = (scores[1] / scores.sum(0)).numpy()
    seen = []
    settings = PredictSettings(thresholds=(0.3,))
    found = decode(
        SemanticQueryDecoder(), output, space=space, settings=settings, watch=lambda top, strip: seen.append(strip)
    )
    assert np.array_equal(found.labels == 1, share >= 0.3)
    # Thresholds are counted on one channel, as for models of pixels.
    assert seen[0].shape == (1, *SIZE)
    several = LabelSpace(("cat", "sky", "dog", "road"), exclusive=False)
    output = some_output()
    found = decode(SemanticQueryDecoder(), output, space=several)
    assert found.scores == pytest.approx(semantic_scores(output).clamp(max=1).permute(1, 2, 0).numpy(), abs=1e-5)


def test_semantic_blends_tiles_and_mirrored_copies():
    """Two tiles of one image with one answer are that answer, and a mirrored copy of it changes nothing."""
    output = some_output()
    grid = Grid((64, 96), (64, 64), 0, (0,), (0, 32))
    left, right = (QueryOutput(output.class_logits, torch.full((1, 12, 16, 16), 2.0)) for _ in range(2))
    outputs = iter([(left, 0), (left, 0), (right, 0), (right, 0)])
    passes = [Pass(grid, ("none", "horizontal"), outputs)]
    found = SemanticQueryDecoder()(passes, Request((64, 96), "semantic", SPACE, PredictSettings()))
    weights = output.class_logits[0].softmax(-1)[:, :-1].sum(0)
    assert (found.labels == int(weights.argmax())).all()
    assert found.scores == pytest.approx(float(weights.max() / weights.sum()), abs=1e-5)


def panoptic_twin(output, decoder, size=SIZE):
    """Dense and query by query, as published. Returns (label, score, mask) of each segment."""
    scores, labels = output.class_logits[0].softmax(-1).max(-1)
    keep = (labels < 4) & (scores > decoder.score_threshold)
    chances = full_size(output.mask_logits, size).sigmoid()[keep]
    winner = (scores[keep][:, None, None] * chances).argmax(0)
    found, stuff = [], {}
    for k, (label, score) in enumerate(zip(labels[keep].tolist(), scores[keep].tolist(), strict=True)):
        won, inside = winner == k, chances[k] >= decoder.mask_threshold
        mask = (won & inside).numpy()
        if not mask.any() or float(won.sum()) / float(inside.sum()) <= decoder.overlap_threshold:
            continue
        if not SPACE.things[label] and label in stuff:
            stuff[label][2][mask] = True
            continue
        found.append((label, score, mask))
        stuff[label] = found[-1]
    return found


def test_panoptic_is_the_published_contest(small_strips):
    counts = []
    for seed in range(4):
        output, decoder = some_output(queries=14, seed=seed), PanopticQueryDecoder(0.5, overlap_threshold=0.3)
        found, expected = decode(decoder, output), panoptic_twin(output, decoder)
        assert found.labels.tolist() == [label for label, _, _ in expected]
        assert found.scores == pytest.approx([score for _, score, _ in expected])
        for identity, (_, _, mask) in zip(found.segment_ids, expected, strict=True):
            # Pixels on a threshold may fall to either side.
            assert ((found.ids == identity) != mask).mean() < 1e-3
        labels = [label for label, _, _ in expected if not SPACE.things[label]]
        assert len(set(labels)) == len(labels)
        counts.append(len(expected))
    assert sum(counts) >= 8


def test_panoptic_without_an_answer_is_void():
    found = decode(PanopticQueryDecoder(score_threshold=0.99), some_output(sharp=0.1))
    assert not found.ids.any()
    assert len(found) == 0


def test_panoptic_beside_transformers():
    transformers = pytest.importorskip("transformers")
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    for seed in range(3):
        output = some_output(queries=14, seed=seed)
        theirs = SimpleNamespace(class_queries_logits=output.class_logits, masks_queries_logits=output.mask_logits)
        (expected,) = processor.post_process_panoptic_segmentation(
            theirs, [SIZE], threshold=0.5, overlap_mask_area_threshold=0.3, stuff_classes=[1, 3]
        )
        found = decode(PanopticQueryDecoder(0.5, overlap_threshold=0.3), output)
        assert found.labels.tolist() == [item["label_id"] for item in expected["segments_info"]]
        assert found.scores == pytest.approx([item["score"] for item in expected["segments_info"]], abs=1e-5)
        assert ((found.ids - 1) != expected["segmentation"].numpy()).mean() < 1e-3


def instance_twin(output, detections, kept, size):
    """The published top pairs with dense masks: (label, score, mask), best first. The score at the size `SEEN`."""
    scores = output.class_logits[0].softmax(-1)[:, kept]
    pairs = sorted(((float(scores[q, c]), q, c) for q in range(len(scores)) for c in range(len(kept))), reverse=True)
    small, large = full_size(output.mask_logits, SEEN), full_size(output.mask_logits, size)
    found = []
    for score, query, label in pairs[:detections]:
        inside = small[query] > 0
        certain = float((small[query].sigmoid() * inside).sum() / (inside.sum() + 1e-6))
        if (mask := (large[query] > 0).numpy()).any():
            found.append((label, score * certain, mask))
    return sorted(found, key=lambda item: -item[1])


@pytest.mark.parametrize("size", [SEEN, SIZE])
def test_instances_are_the_published_pairs(small_strips, size):
    output = some_output()
    found = decode(InstanceQueryDecoder(score_threshold=0.1, detections=20), output, size=size)
    expected = [item for item in instance_twin(output, 20, [0, 2], size) if item[1] >= 0.1]
    assert found.space.names == ("cat", "dog")
    assert all(found.space.things)
    assert found.labels.tolist() == [label for label, _, _ in expected]
    assert found.scores == pytest.approx([score for _, score, _ in expected], abs=1e-5)
    dense = found.masks.dense()
    for mask, (_, _, wanted) in zip(dense, expected, strict=True):
        assert ((mask > 0) != wanted).mean() < 1e-3
    assert len(expected) >= 4


def test_a_higher_mask_threshold_gives_smaller_masks():
    output = some_output(sharp=3.0)
    low, high = (decode(InstanceQueryDecoder(0.0, threshold, 8), output) for threshold in (0.5, 0.9))
    wanted = full_size(output.mask_logits).sigmoid()
    assert high.masks.areas().max() < low.masks.areas().max()
    areas = {int((chance > 0.9).sum()) for chance in wanted}
    assert all(min(abs(int(area) - other) for other in areas) <= 2 for area in high.masks.areas())


def test_instances_beside_transformers():
    """transformers answers each query's best class alone; those are among the pairs, with the same score."""
    transformers = pytest.importorskip("transformers")
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    space = LabelSpace(("a", "b", "c", "d"), (True,) * 4)
    output = some_output()
    theirs = SimpleNamespace(class_queries_logits=output.class_logits, masks_queries_logits=output.mask_logits)
    (expected,) = processor.post_process_instance_segmentation(theirs, [SEEN], threshold=0.1)
    found = decode(InstanceQueryDecoder(0.1, detections=48), output, space=space, size=SEEN)
    pairs = [(int(label), float(score)) for label, score in zip(found.labels, found.scores, strict=True)]
    assert len(expected["segments_info"]) >= 4
    for item in expected["segments_info"]:
        near = [score for label, score in pairs if label == item["label_id"]]
        assert min(abs(score - item["score"]) for score in near) < 1e-4


def test_semantic_beside_transformers():
    transformers = pytest.importorskip("transformers")
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": None})
    output = some_output()
    theirs = SimpleNamespace(
        class_queries_logits=output.class_logits,
        masks_queries_logits=output.mask_logits,
        patch_offsets=[torch.tensor([0, 0, 64])],
    )
    (expected,) = processor.post_process_semantic_segmentation(theirs, [(96, 96)])
    grid = Grid((64, 64), (64, 64), 0, (0,), (0,))
    request = Request((96, 96), "semantic", SPACE, PredictSettings())
    found = SemanticQueryDecoder()([Pass(grid, ("none",), iter([(output, 0)]))], request)
    assert (found.labels != expected.numpy()).mean() < 1e-3


def test_no_object_and_no_class():
    nothing = QueryOutput(torch.zeros(1, 3, 5), torch.full((1, 3, 16, 16), -5.0))
    found = decode(InstanceQueryDecoder(), nothing)
    assert len(found) == 0
    for decoder in (SemanticQueryDecoder(), InstanceQueryDecoder(), PanopticQueryDecoder()):
        with pytest.raises(UserError, match="tells 4 classes apart, but the label space has 2"):
            decode(decoder, some_output(), space=LabelSpace(("a", "b")))


def test_options_are_checked():
    for task, kind in (("semantic", SemanticQueryDecoder), ("instance", InstanceQueryDecoder)):
        assert isinstance(find_decoder(task, QueryOutput, {}), kind)
    assert find_decoder("panoptic", QueryOutput, {"overlap_threshold": 0.5}).overlap_threshold == 0.5
    for options in ({"score_threshold": 1.0}, {"mask_threshold": 0.0}, {"detections": 0}):
        with pytest.raises(UserError, match=next(iter(options))):
            InstanceQueryDecoder(**options)
    with pytest.raises(UserError, match="overlap_threshold"):
        PanopticQueryDecoder(overlap_threshold=-0.1)


def test_things_alone_are_mapped_over_a_background():
    space = LabelSpace(("cat", "dog"), (True, True))
    output = some_output(queries=3, classes=2)
    found = decode(SemanticQueryDecoder(), output, space=space)
    assert found.space.names == ("background", "cat", "dog")
    scores = semantic_scores(output)
    scores = torch.cat([(1 - scores.sum(0, keepdim=True)).clamp_min(0), scores])
    best = scores.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    assert np.array_equal(found.labels[clear], scores.argmax(0).numpy()[clear])
    assert 0 in found.labels
    assert found.labels.max() > 0


def sure_output(queries: int, sure: int) -> QueryOutput:
    """`sure` queries that say "cat" with 0.9, and others that say nothing."""
    logits = torch.full((1, queries, 5), -4.0)
    logits[0, :sure, 0], logits[0, sure:, 4] = 4.0, 4.0
    return QueryOutput(logits, torch.full((1, queries, 16, 16), 3.0))


@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_a_limit_that_cuts_sure_objects_says_so(threshold):
    """Pairs are always more than the limit; what matters is whether one that was left out is an object."""
    decoder = InstanceQueryDecoder(threshold, detections=5)
    with pytest.warns(UserWarning, match=r"more objects in an image than settings\.decoding\.detections \(5\)"):
        assert len(decode(decoder, sure_output(12, 6))) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(decode(decoder, sure_output(12, 5))) == 5
        decode(InstanceQueryDecoder(0.9999, detections=5), sure_output(12, 6))


@pytest.mark.parametrize("decoder", [InstanceQueryDecoder(), PanopticQueryDecoder()])
def test_queries_that_are_all_taken_are_said(decoder):
    with pytest.warns(UserWarning, match=r"All 12 queries of the model \(model\.options\.queries\) found something"):
        decode(decoder, sure_output(12, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(decoder, sure_output(12, 11))
