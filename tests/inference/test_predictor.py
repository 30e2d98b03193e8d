"""The one path from image to prediction: sizes, tiles, mirrored copies, scales, batches, refusals."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.core.labels import LabelSpace
from nuriwake.core.targets import SemanticMap
from nuriwake.inference import decoding
from nuriwake.inference.predictor import Predictor
from nuriwake.inference.preprocessing import Preprocessing, ResizeRule
from nuriwake.inference.rules import PostprocessingRule
from nuriwake.inference.settings import PredictSettings, change_settings
from nuriwake.models.base import Model
from nuriwake.models.outputs import PixelLogits

THREE = LabelSpace(("sky", "road", "car"))
BINARY = LabelSpace(("background", "cell"))
PLAIN = Preprocessing(3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Pointwise(Model):
    """Every pixel for itself, so that tiles, padding and flips cannot change the answer."""

    def __init__(self, classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(channels, classes, 1)
        self.input_multiple = 32
        self.input_minimum = 32
        self.calls = 0

    def forward(self, images: Tensor) -> PixelLogits:
        self.require_size(images)
        self.calls += 1
        return PixelLogits(self.mix(images))


class Unpadded(Pointwise):
    """A mean over 9 x 9 pixels without padding: margin 4."""

    def __init__(self) -> None:
        super().__init__()
        self.margin = 4

    def forward(self, images: Tensor) -> PixelLogits:
        return PixelLogits(self.mix(nn.functional.avg_pool2d(images, 9, 1)))


class LeftRight(Pointwise):
    """Answers with the column, so that mirrored copies disagree; at half the resolution."""

    def forward(self, images: Tensor) -> PixelLogits:
        column = torch.linspace(-3, 3, images.shape[-1]).expand(images.shape[0], 1, *images.shape[-2:])
        return PixelLogits(nn.functional.avg_pool2d(torch.cat((column, -column, images[:, :1]), 1), 2))


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), np.uint8)


def predictor(model: Model, space: LabelSpace = THREE, **settings: object) -> Predictor:
    return Predictor(model, space=space, preprocessing=PLAIN, settings=PredictSettings(**settings))


def pointwise_truth(model: Pointwise, image: np.ndarray) -> np.ndarray:
    normal = torch.from_numpy((image / np.float32(255) - 0.5) / 0.25).float()
    logits = normal @ model.mix.weight[:, :, 0, 0].T + model.mix.bias
    return logits.softmax(-1).permute(2, 0, 1).detach().numpy()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 31), (64, 64), (97, 130)])
@pytest.mark.parametrize("tile", [None, 48])
@pytest.mark.parametrize("flips", ["none", "all"])
def test_any_size_tiled_or_mirrored_is_the_pointwise_answer(size, tile, flips):
    model, image = Pointwise(), picture(*size)
    found = predictor(model, tile=tile, flips=flips, batch_size=3)
    expected = pointwise_truth(model, image)
    np.testing.assert_allclose(found.probabilities(image), expected, atol=2e-6)
    answer = found(image)
    assert answer.size == size
    np.testing.assert_allclose(answer.scores, expected.max(0), atol=2e-6)
    assert (answer.labels == expected.argmax(0)).mean() > 0.999


def test_large_images_are_tiled_and_small_ones_are_not():
    model = Pointwise()
    predictor(model, tile=64, batch_size=1)(picture(64, 64))
    assert model.calls == 1
    predictor(model, tile=64, batch_size=1, overlap=0.25)(picture(65, 64))
    assert model.calls == 3


@pytest.mark.parametrize("tile", [None, 40, 64])
@pytest.mark.parametrize("size", [(90, 120), (37, 150), (3, 5)])
def test_unpadded_models_answer_for_every_pixel_with_the_border_mirrored(tile, size):
    model, image = Unpadded(), picture(*size)
    wide = np.pad(image, [(4, 4), (4, 4), (0, 0)], mode="reflect")
    mean = nn.functional.avg_pool2d(torch.from_numpy(wide).permute(2, 0, 1)[None].float(), 9, 1)[0].permute(1, 2, 0)
    expected = pointwise_truth(model, mean.numpy())
    np.testing.assert_allclose(predictor(model, tile=tile).probabilities(image), expected, atol=1e-5)


class Pooled(Pointwise):
    """Pools by 4: where the pooling begins changes the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.input_multiple = self.input_minimum = 4

    def forward(self, images: Tensor) -> PixelLogits:
        return PixelLogits(self.mix(nn.functional.max_pool2d(images, 4)))


def test_tiles_begin_where_the_pooling_of_the_whole_image_does():
    image = picture(101, 150)
    assert_pooled = [predictor(Pooled(), tile=tile).probabilities(image)[:, 8:90, 20:] for tile in (None, 50)]
    far_from_seams = np.isclose(*assert_pooled, atol=1e-5).mean()
    assert far_from_seams > 0.85


def test_mirrored_copies_average_probabilities():
    image = picture(32, 64)
    once = predictor(LeftRight()).probabilities(image)
    mirrored = predictor(LeftRight()).probabilities(np.ascontiguousarray(image[:, ::-1]))[:, :, ::-1]
    both = predictor(LeftRight(), flips="horizontal").probabilities(image)
    assert np.abs(once - mirrored).max() > 0.1
    np.testing.assert_allclose(both, (once + mirrored) / 2, atol=1e-6)


def test_scales_average_probabilities():
    image = picture(64, 64)
    each = [predictor(LeftRight(), scales=(scale,)).probabilities(image) for scale in (0.5, 1.0, 1.5)]
    found = predictor(LeftRight(), scales=(0.5, 1.0, 1.5)).probabilities(image)
    assert np.abs(each[0] - each[1]).max() > 1e-3
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)


def test_batches_share_passes_and_answer_as_one_by_one():
    model = Pointwise()
    found = predictor(model, batch_size=4)
    images = [picture(40, 50), picture(40, 50), picture(33, 33), picture(40, 50)]
    images[1] = images[1][::-1].copy()
    seen: dict[int, np.ndarray] = {}
    answers = found.batch(images, watch=lambda index, top, strip: seen.setdefault(index, strip.numpy().copy()))
    assert model.calls == 3
    for index, (image, answer) in enumerate(zip(images, answers, strict=True)):
        np.testing.assert_array_equal(answer.labels, found(image).labels)
        np.testing.assert_allclose(seen[index], found.probabilities(image), atol=1e-6)


def test_watch_sees_every_row_once_while_the_answer_is_made(monkeypatch):
    monkeypatch.setattr("nuriwake.inference.strips.VALUES_AT_ONCE", 3 * 50 * 7)
    model, image = Pointwise(), picture(100, 50)
    found, rows = predictor(model, tile=32), []
    answer = found(image, watch=lambda top, strip: rows.append((top, strip.numpy().copy())))
    assert len(rows) == 15
    volume = np.concatenate([strip for _, strip in rows], axis=1)
    np.testing.assert_allclose(volume, pointwise_truth(model, image), atol=2e-6)
    np.testing.assert_array_equal(volume.argmax(0), answer.labels)


def test_full_size_results_of_a_resized_input():
    rule = ResizeRule(shortest=32)
    found = Predictor(Pointwise(), space=THREE, preprocessing=Preprocessing(3, *[(0.5,) * 3] * 2, resize=rule))
    answer = found(picture(90, 150))
    assert answer.size == (90, 150)
    assert found.probabilities(picture(90, 150)).sum(0) == pytest.approx(1, abs=1e-5)


def test_thresholds_and_rules_are_applied():
    model, image = Pointwise(classes=1), picture(60, 60)
    probability = predictor(model, BINARY).probabilities(image)
    assert probability.shape == (1, 60, 60)
    answer = predictor(model, BINARY, thresholds=(0.7,))(image)
    np.testing.assert_array_equal(answer.labels, probability[0] >= 0.7)
    cleaned = predictor(model, BINARY, postprocessing=(PostprocessingRule("keep_largest"),))(image)
    assert 0 < cleaned.labels.sum() < predictor(model, BINARY)(image).labels.sum()


def test_multi_label_answers_have_a_layer_per_class():
    space = LabelSpace(("water", "cloud"), exclusive=False)
    model, image = Pointwise(classes=2), picture(20, 30)
    found = predictor(model, space, thresholds=(0.4, 0.6))
    probability = found.probabilities(image)
    np.testing.assert_array_equal(found(image).labels[..., 1], probability[1] >= 0.6)
    np.testing.assert_array_equal(found(image).labels[..., 0], probability[0] >= 0.4)


def test_the_modes_of_the_model_are_kept():
    model = Pointwise()
    model.frozen = nn.BatchNorm2d(3).eval()
    model.train()
    model.frozen.eval()
    predictor(model)(picture(32, 32))
    assert (model.training, model.frozen.training) == (True, False)


def test_bfloat16_answers_nearly_the_same():
    image = picture(64, 64)
    exact = predictor(Pointwise()).probabilities(image)
    found = Predictor(Pointwise(), space=THREE, preprocessing=PLAIN, precision="bfloat16").probabilities(image)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.05


def test_pillow_images_and_paths():
    image = picture(32, 40)
    found = Predictor(Pointwise(), space=THREE, preprocessing=PLAIN, read=lambda path: image)
    expected = found(image).labels
    np.testing.assert_array_equal(found(Image.fromarray(image)).labels, expected)
    np.testing.assert_array_equal(found(Image.fromarray(image).convert("RGBA")).labels, expected)
    np.testing.assert_array_equal(found(Path("a.png")).labels, expected)
    with pytest.raises(UserError, match=r"a\.png: this predictor has no reader"):
        predictor(Pointwise())("a.png")


def test_a_pillow_image_is_turned_upright_as_a_file_is(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(32, 40)).save(tmp_path / "a.png", exif=turned)
    found = predictor(Pointwise())(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(found.labels, predictor(Pointwise())(np.rot90(picture(32, 40), -1).copy()).labels)


@pytest.mark.parametrize(("mode", "channels"), [("P", 1), ("LA", 1), ("LA", 3), ("P", 3)])
def test_pillow_images_of_other_modes_are_seen_as_their_colours(mode, channels):
    grey = picture(32, 40)[..., :1].repeat(3, axis=2)
    if mode == "P":  # an index says nothing by itself
        image = Image.fromarray(255 - grey[..., 0]).convert("P")
        image.putpalette(bytes(255 - index for index in range(256) for _ in range(3)))
    else:
        image = Image.fromarray(grey[..., 0]).convert(mode)
    whole = Preprocessing(channels, (0.0,) * channels, (1.0,) * channels)
    found = replace(predictor(Pointwise()), preprocessing=whole)
    np.testing.assert_array_equal(found._array(image), grey[..., :channels])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 4), np.uint8), "has 4 channels, but this model wants 3"),
        (np.zeros((8, 8, 3), np.uint16), "is uint16, but this model wants uint8 images with values up to 255"),
        (np.zeros((8, 8, 3), np.float64), "is float64"),
        (np.zeros((0, 8, 3), np.uint8), "expected an array"),
        (np.zeros((2, 8, 8, 3), np.uint8), "expected an array"),
    ],
)
def test_images_that_do_not_suit_are_refused(image, message):
    with pytest.raises(UserError, match=message):
        predictor(Pointwise())(image)


def test_a_grey_image_is_three_equal_channels():
    grey = picture(33, 20, 1)
    found = predictor(Pointwise())
    np.testing.assert_array_equal(found(grey[:, :, 0]).labels, found(np.repeat(grey, 3, 2)).labels)


def test_swapped_channels_and_sixteen_bit():
    image = picture(6, 7)
    swapped = Preprocessing(3, (0.1, 0.2, 0.3), (1, 1, 1), order="bgr").tensor(image)
    np.testing.assert_allclose(swapped[0], image[:, :, 2] / 255 - 0.1, atol=1e-6)
    deep = Preprocessing(1, (0.5,), (0.5,), 4095, "uint16")
    np.testing.assert_allclose(deep.tensor(np.full((2, 2, 1), 4095, np.uint16)), 1, atol=1e-6)


@pytest.mark.parametrize("tile", [None, 40])
@pytest.mark.parametrize("size", [(90, 120), (37, 50), (3, 5)])
def test_zero_padding_comes_after_normalisation(size, tile):
    """The window is the normalised image in a frame of zeros: the slow twin pads the whole normalised image."""
    model, image = Unpadded(), picture(*size)
    plain = replace(PLAIN, padding="zero")
    normal = torch.from_numpy((image / np.float32(255) - 0.5) / 0.25).float().permute(2, 0, 1)[None]
    mean = nn.functional.avg_pool2d(nn.functional.pad(normal, (4, 4, 4, 4)), 9, 1)
    expected = model.mix(mean).softmax(1)[0].detach().numpy()
    found = Predictor(model, space=THREE, preprocessing=plain, settings=PredictSettings(tile=tile))
    np.testing.assert_allclose(found.probabilities(image), expected, atol=1e-5)
    mirrored = Predictor(model, space=THREE, preprocessing=PLAIN, settings=PredictSettings(tile=tile))
    assert np.abs(mirrored.probabilities(image) - expected).max() > 1e-3


def test_swapped_channels_and_zero_padding_go_together():
    image = picture(4, 5)
    rule = Preprocessing(3, (0.1, 0.2, 0.3), (1, 1, 1), order="bgr", padding="zero")
    found = rule.window(image, -1, 2, (6, 6))
    np.testing.assert_array_equal(found[:, 1:5, :3], rule.tensor(image)[:, :, 2:])
    assert not found[:, [0, 5]].any()
    assert not found[:, :, 3:].any()


class Listed(NamedTuple):
    """An output that is no map of pixels."""

    items: Tensor


class Lister(Pointwise):
    """Returns another kind of output."""

    def forward(self, images: Tensor) -> Listed:
        return Listed(images.mean((1, 2, 3)))


@dataclass(frozen=True)
class ListDecoder:
    """Every pixel is class 1 where the image is bright; the option is the cut, the task what it is called."""

    score_threshold: float = 0.5
    blends: ClassVar[bool] = False

    def __call__(self, passes, request):
        (row,) = (output.items[row] for output, row in passes[0].outputs)
        assert request.task == "instance"
        return SemanticMap(np.full(request.size, int(row > self.score_threshold), np.uint8), request.space)


@pytest.fixture
def listing(monkeypatch):
    """A predictor whose output has a decoder for the task "instance" alone."""
    monkeypatch.setitem(decoding.DECODERS, ("instance", Listed), "of this test")
    find = decoding.import_object
    monkeypatch.setattr(decoding, "import_object", lambda path: ListDecoder if path == "of this test" else find(path))

    def build(task: str = "instance", **settings: object) -> Predictor:
        given = PredictSettings(**settings)
        return Predictor(Lister(), space=BINARY, preprocessing=PLAIN, settings=given, task=task)

    return build


def test_decoding_goes_by_task_and_output_with_options_of_its_own(listing):
    image = np.full((40, 40, 3), 200, np.uint8)  # 1.14 after normalisation
    assert listing()(image).labels.all()
    assert not listing(decoding={"score_threshold": 1.2})(image).labels.any()
    with pytest.raises(
        UserError, match=r"no field 'settings\.decoding\.score_treshold'.*Did you mean 'score_threshold'"
    ):
        listing(decoding={"score_treshold": 1.2})
    with pytest.raises(UserError, match="no decoder of the task 'semantic' for a model that returns Listed"):
        listing("semantic")
    with pytest.raises(UserError, match=r"no field 'settings\.decoding\.score_threshold'"):
        predictor(Pointwise(), decoding={"score_threshold": 0.3})


def test_what_cannot_be_averaged_is_refused(listing):
    assert listing(tile=32, scales=(1.5,))(picture(20, 20)).size == (20, 20)
    for settings, found in (
        ({"flips": "horizontal"}, "found flips horizontal and the scales 1"),
        ({"scales": (1.0, 1.5)}, r"found flips none and the scales 1, 1\.5"),
    ):
        with pytest.raises(UserError, match=f"mirrored copies and of several scales are averaged.*{found}"):
            listing(**settings)
    with pytest.raises(
        UserError, match=r"joined where tiles overlap, by at least 8 pixels; found tiles of 64 that overlap by 0\.1"
    ):
        listing(tile=64, overlap=0.1)


@pytest.mark.parametrize("scales", [(1.0,), (0.5,)])
@pytest.mark.parametrize("resize", [None, ResizeRule(exact=(64, 64))])
def test_answers_that_are_lists_are_joined_from_tiles(listing, resize, scales):
    """Each tile is an image of its own for the model, whatever size it is given; pixels go by the tile's cell."""
    image = np.zeros((50, 150, 3), np.uint8)
    image[:, 80:] = 255
    found = listing(tile=64, overlap=0.25, scales=scales)
    found.preprocessing = replace(found.preprocessing, resize=resize)
    answer = found(image)
    assert answer.size == (50, 150)
    assert not answer.labels[:, :50].any()
    assert answer.labels[:, 100:].all()
    assert np.array_equal(found.batch([image, image])[1].labels, answer.labels)
    whole = found.with_settings(replace(found.settings, tile=None))(image)
    assert len(np.unique(whole.labels)) == 1


def test_changes_of_settings():
    rules = (PostprocessingRule("keep_largest"),)
    settings = PredictSettings(thresholds=(0.4,), postprocessing=rules, decoding={"a": 1, "b": 2})
    found = change_settings(settings, {"tile": 0, "decoding": {"b": 3}, "scales": [1, 2]})
    assert found == replace(settings, tile=None, decoding={"a": 1, "b": 3}, scales=(1.0, 2.0))
    assert change_settings(settings, None) is settings
    assert (settings.tile, settings.tile_side) == ("auto", 1024)
    assert change_settings(replace(settings, tile=320), {"tile": "auto"}).tile == 320  # the bundle's, as it was trained
    assert change_settings(settings, PredictSettings()) == PredictSettings()
    with pytest.raises(UserError, match=r"no field 'settings\.flip'.*Did you mean 'flips'"):
        change_settings(settings, {"flip": "all"})


def test_rules_name_classes_or_give_their_labels():
    space = LabelSpace(("background", "cell", "wall"))
    assert PostprocessingRule("keep_largest", ("wall", 1)).labels(space) == (2, 1)
    with pytest.raises(UserError, match="names the class 3; this label space has the labels 0 to 2"):
        PostprocessingRule("keep_largest", (3,)).labels(space)


def test_settings_that_do_not_fit():
    with pytest.raises(UserError, match="a binary space of 2 classes wants 1, found 2"):
        predictor(Pointwise(1), BINARY, thresholds=(0.5, 0.5))
    with pytest.raises(UserError, match="no class 'cel'"):
        predictor(Pointwise(1), BINARY, postprocessing=(PostprocessingRule("keep_largest", ("cel",)),))
    with pytest.raises(UserError, match=r"overlap: expected 0 to 0\.5, found 0\.9"):
        PredictSettings(overlap=0.9)
    with pytest.raises(UserError, match="returns 5 channels, but the label space has 3"):
        predictor(Pointwise(5))(picture(8, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: the same answer from both devices")
def test_the_gpu_gives_the_same_answer():
    image = picture(150, 170)
    settings = PredictSettings(tile=64, flips="all", scales=(1.0, 1.5))
    on_gpu = Predictor(Pointwise(), space=THREE, preprocessing=PLAIN, settings=settings, device="cuda")
    on_cpu = Predictor(Pointwise(), space=THREE, preprocessing=PLAIN, settings=settings)
    np.testing.assert_allclose(on_gpu.probabilities(image), on_cpu.probabilities(image), atol=1e-3)
    assert (on_gpu(image).labels == on_cpu(image).labels).mean() > 0.99


def test_an_image_seen_whole_keeps_its_size_where_the_model_takes_any():
    class Seeing(Pointwise):
        def forward(self, images: Tensor) -> PixelLogits:
            self.seen = tuple(images.shape[-2:])
            return super().forward(images)

    model = Seeing()
    image = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)
    predictor = Predictor(model, space=LabelSpace(("a", "b", "c")), preprocessing=PLAIN)
    padded = predictor.probabilities(image)
    assert model.seen == (64, 96)
    model.any_size = True
    np.testing.assert_allclose(predictor.probabilities(image), padded, atol=1e-6)
    assert model.seen == (45, 70)
    predictor.probabilities(image[:20])
    assert model.seen == (32, 70)
    # Tiles lie on the cells of the model's maps.
    tiled = predictor.with_settings(PredictSettings(tile=40))
    np.testing.assert_allclose(tiled.probabilities(image), padded, atol=1e-6)
    assert model.seen == (64, 64)
