"""Ready pipelines for three kinds of images, and why their ranges are what they are."""

from collections.abc import Callable
from typing import Literal

from nuriwake.core.lookup import lookup
from nuriwake.core.targets import Size
from nuriwake.transforms.geometric import (
    CentralCrop,
    Elastic,
    HorizontalFlip,
    RandomCrop,
    Rotate90,
    ShiftScaleRotate,
)
from nuriwake.transforms.photometric import (
    Blur,
    BrightnessContrast,
    Gamma,
    HueSaturation,
    Noise,
    PhotometricOperation,
)
from nuriwake.transforms.pipeline import Pipeline
from nuriwake.transforms.toning import Units

PresetName = Literal["none", "natural", "medical", "satellite"]


def preset(name: PresetName, size: Size, *, channels: int = 3, maximum: float | Units | None = None) -> Pipeline:
    """The pipeline called `name` for training crops of `size` (height, width).

    Args:
        name: "none" crops and does nothing else; "natural" photographs; "medical" micrographs, X-rays and slices;
            "satellite" images from above.
        size: of the crops.
        channels: of the images. Hue and saturation are only defined for 3 and are left out for any other number.
        maximum: the value of full brightness, see `Pipeline`.

    Raises:
        UserError: no preset of that name.
    """
    return lookup(name, PRESETS, "preset")(size, channels, maximum)


def evaluation(size: Size) -> Pipeline:
    """The middle of the image at `size`, padded where the image is smaller; nothing random."""
    return Pipeline((CentralCrop(),), (), size)


def _none(size: Size, channels: int, maximum: float | Units | None) -> Pipeline:
    return Pipeline((RandomCrop(),), (), size, maximum=maximum)


def _natural(size: Size, channels: int, maximum: float | Units | None) -> Pipeline:
    # Zoom 0.5 to 2 and the flip are the recipe of DeepLab (Chen 2017) and of nearly every paper since: things come at
    # all distances. Up and down are facts of a photograph, so no vertical flip and no turn. The colour ranges are about
    # those of SSD (Liu 2016): brightness 32 of 255, contrast and saturation a half there, less here because pretrained
    # backbones are frozen or slow at first; hue 18 of 360 degrees.
    return Pipeline(
        (RandomCrop(zoom=(0.5, 2.0), stretch=(0.9, 1.1)), HorizontalFlip()),
        (
            BrightnessContrast(brightness=0.125, contrast=0.35, probability=0.7),
            *_colour(channels, HueSaturation(hue=12.0, saturation=0.4, probability=0.5)),
            Blur(probability=0.05),
        ),
        size,
        maximum=maximum,
    )


def _medical(size: Size, channels: int, maximum: float | Units | None) -> Pipeline:
    # Ranges of nnU-Net (Isensee 2021, supplement 4): zoom 0.7 to 1.4, gamma 0.7 to 1.5, contrast 0.75 to 1.25, blur 0.5
    # to 1, noise up to a variance of 0.1 in units of the image's deviation (here about 0.03 of the maximum), mirrors on
    # all axes. The zooms of the crop and of the turn together span 0.7 to 1.4; the magnification of a scanner is known. Elastic as in U-Net (Ronneberger 2015), which
    # made 30 images enough. Turns by 90 degrees: a micrograph has no up; for X-rays take them out.
    return Pipeline(
        (
            Rotate90(),
            RandomCrop(zoom=(0.8, 1.25)),
            HorizontalFlip(),
            ShiftScaleRotate(shift=0.0, zoom=(0.875, 1.12), degrees=(-20.0, 20.0), probability=0.3),
            Elastic(cells=4, strength=0.12, probability=0.2),
        ),
        (
            BrightnessContrast(brightness=0.1, contrast=0.25, probability=0.4),
            Gamma(gamma=(0.7, 1.5), probability=0.3),
            *_colour(channels, HueSaturation(hue=8.0, saturation=0.25, probability=0.3)),  # stains differ between labs
            Blur(sigma=(0.5, 1.0), probability=0.15),
            Noise(deviation=(0.0, 0.03), probability=0.15),
        ),
        size,
        maximum=maximum,
    )


def _satellite(size: Size, channels: int, maximum: float | Units | None) -> Pipeline:
    # From above there is no up: all eight turns and mirrors, and any angle between. The ground resolution is known and
    # is itself a cue (a lorry is not a bus), so the zoom stays within three quarters to four thirds. Haze, sun and
    # sensor shift each band by itself: per-channel brightness and contrast stand in for it where hue is undefined.
    return Pipeline(
        (
            Rotate90(),
            RandomCrop(zoom=(0.75, 1.333)),
            HorizontalFlip(),
            ShiftScaleRotate(shift=0.0, zoom=(1.0, 1.0), degrees=(-45.0, 45.0), probability=0.3),
        ),
        (
            BrightnessContrast(brightness=0.1, contrast=0.2, probability=0.5),
            BrightnessContrast(brightness=0.04, contrast=0.1, per_channel=True, probability=0.3),
            *_colour(channels, HueSaturation(hue=6.0, saturation=0.2, probability=0.3)),
            Blur(probability=0.05),
            Noise(deviation=(0.0, 0.02), probability=0.05),
        ),
        size,
        maximum=maximum,
    )


def _colour(channels: int, operation: HueSaturation) -> tuple[PhotometricOperation, ...]:
    return (operation,) if channels == 3 else ()


PRESETS: dict[str, Callable[[Size, int, float | None], Pipeline]] = {
    "none": _none,
    "natural": _natural,
    "medical": _medical,
    "satellite": _satellite,
}
