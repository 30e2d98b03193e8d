"""Where a prediction and the truth agree and differ: a picture and its figures."""

from dataclasses import dataclass

import numpy as np

from nuriwake.core.labels import IGNORE, Colour
from nuriwake.core.targets import SemanticMap
from nuriwake.viz.display import label_pixels
from nuriwake.viz.legend import Entry
from nuriwake.viz.overlay import background_label, hatching, paint

TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE, CONFUSED = 1, 2, 3, 4
KINDS: dict[int, tuple[str, Colour]] = {
    TRUE_POSITIVE: ("intersection", (0, 158, 115)),
    FALSE_POSITIVE: ("false positive", (230, 97, 0)),
    FALSE_NEGATIVE: ("false negative", (0, 114, 210)),
    CONFUSED: ("wrong class", (214, 39, 160)),
}
"""What a pixel of the difference is: name and colour (told apart by colour-blind eyes: Okabe and Ito, 2008, adapted)."""


@dataclass(frozen=True)
class PictureScores:
    """Figures of one picture, not of a data set.

    Args:
        iou, dice: float64 (classes,), nan where a class is neither in the truth nor in the prediction.
        intersection, union: pixels, summed over the classes that count (all but the background).
    """

    iou: np.ndarray
    dice: np.ndarray
    intersection: int
    union: int
    mean_iou: float
    mean_dice: float


def difference_kinds(truth: SemanticMap, prediction: SemanticMap, *, focus: int | None = None) -> np.ndarray:
    """uint8 (H, W): 0 background in both, a key of `KINDS`, or `IGNORE` where the truth is ignore.

    Without `focus`, a positive is any class but the background (every class, in a space without background), and a
    positive of another class than the true one is `CONFUSED`; a multi-label pixel with both a missing and a surplus
    class is `CONFUSED` too. With `focus`, only that class is a positive.

    Raises:
        ValueError: the two have different sizes or numbers of classes.
    """
    if truth.size != prediction.size or len(truth.space) != len(prediction.space):
        raise ValueError(
            f"Truth is {truth.size} with {len(truth.space)} classes, prediction {prediction.size} with {len(prediction.space)}."
        )
    if not truth.space.exclusive:
        return _layered_kinds(truth.labels, prediction.labels, focus)
    ignored = truth.labels == IGNORE
    if focus is not None:
        kinds = _layered_kinds((truth.labels == focus)[..., None], (prediction.labels == focus)[..., None], None)
    else:
        hidden = background_label(truth.space)
        positive, claimed = truth.labels != hidden, prediction.labels != hidden
        claimed &= prediction.labels != IGNORE
        kinds = _kinds(
            positive & claimed & (truth.labels == prediction.labels), claimed & ~positive, positive & ~claimed
        )
        kinds[positive & claimed & (truth.labels != prediction.labels)] = CONFUSED
    kinds[ignored] = IGNORE
    return kinds


def difference_picture(
    image: np.ndarray, kinds: np.ndarray, *, opacity: float = 0.65, agreement: float = 0.65
) -> np.ndarray:
    """`image` uint8 RGB (H, W, 3) greyed, with `kinds` (H, W) painted over it. Returns a new array.

    Args:
        opacity: of what differs.
        agreement: opacity of the intersection; less where it would cover nearly everything.
    """
    grey = image.mean(axis=2, dtype=np.float32)[..., None] * 0.75
    canvas = np.repeat(grey.astype(np.uint8), 3, axis=2)
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    for kind, (_, colour) in KINDS.items():
        table[kind] = colour
    paint(canvas, kinds == TRUE_POSITIVE, table[TRUE_POSITIVE], agreement)
    paint(canvas, (kinds > TRUE_POSITIVE) & (kinds != IGNORE), table[kinds], opacity)
    paint(canvas, kinds == IGNORE, hatching(kinds.shape), 0.6)
    return canvas


def kind_entries(kinds: np.ndarray) -> list[Entry]:
    """Legend entries of what is in `kinds`."""
    pixels = label_pixels(kinds)
    return [Entry(name, colour, int(pixels[kind])) for kind, (name, colour) in KINDS.items() if pixels[kind]]


def picture_scores(truth: SemanticMap, prediction: SemanticMap) -> PictureScores:
    """IoU and Dice of each class in this one picture, and their means over the classes that are there.

    The background of a space that has one counts in neither mean. Ignored pixels of the truth count nowhere; a pixel that
    the prediction ignores is a miss.
    """
    classes = len(truth.space)
    if truth.space.exclusive:
        both, true, claimed = _exclusive_counts(truth.labels, prediction.labels, classes)
    else:
        valid = truth.labels != IGNORE
        is_true, is_claimed = (truth.labels == 1), (prediction.labels == 1) & valid
        both, true, claimed = (layer.sum(axis=(0, 1)) for layer in (is_true & is_claimed, is_true, is_claimed))
    union = true + claimed - both
    iou = np.divide(both, union, out=np.full(classes, np.nan), where=union > 0)
    dice = np.divide(2 * both, true + claimed, out=np.full(classes, np.nan), where=union > 0)
    counted = np.arange(classes) != background_label(truth.space)
    here = counted & (union > 0)
    return PictureScores(
        iou,
        dice,
        intersection=int(both[counted].sum()),
        union=int(union[counted].sum()),
        mean_iou=float(iou[here].mean()) if here.any() else float("nan"),
        mean_dice=float(dice[here].mean()) if here.any() else float("nan"),
    )


def _exclusive_counts(truth: np.ndarray, prediction: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    valid = truth != IGNORE
    layers = truth[valid & (truth == prediction)], truth[valid], prediction[valid]
    return tuple(label_pixels(layer)[:classes] for layer in layers)


def _layered_kinds(truth: np.ndarray, prediction: np.ndarray, focus: int | None) -> np.ndarray:
    """Kinds of (H, W, K) layers of 0, 1 and `IGNORE`; a pixel is ignored when all its layers are."""
    if focus is not None:
        truth, prediction = truth[..., focus : focus + 1], prediction[..., focus : focus + 1]
    valid = truth != IGNORE
    true, claimed = truth == 1, (prediction == 1) & valid
    surplus, missing = (claimed & ~true).any(axis=2), (true & ~claimed).any(axis=2)
    kinds = _kinds((true & claimed).any(axis=2), surplus, missing)
    kinds[surplus & missing] = CONFUSED
    kinds[~valid.any(axis=2)] = IGNORE
    return kinds


def _kinds(agree: np.ndarray, surplus: np.ndarray, missing: np.ndarray) -> np.ndarray:
    kinds = np.where(agree, np.uint8(TRUE_POSITIVE), np.uint8(0))
    kinds[surplus] = FALSE_POSITIVE
    kinds[missing] = FALSE_NEGATIVE
    return kinds
