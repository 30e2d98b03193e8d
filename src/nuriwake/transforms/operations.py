"""Operations by name, as a configuration writes them: "horizontal_flip", or {"elastic": {"strength": 0.1}}."""

from collections.abc import Mapping, Sequence
from typing import Any

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean
from nuriwake.core.serial import from_plain
from nuriwake.transforms import geometric, mixing, photometric

GEOMETRIC: dict[str, type] = {
    "horizontal_flip": geometric.HorizontalFlip,
    "vertical_flip": geometric.VerticalFlip,
    "rotate_90": geometric.Rotate90,
    "shift_scale_rotate": geometric.ShiftScaleRotate,
    "elastic": geometric.Elastic,
    "grid_distortion": geometric.GridDistortion,
    "random_crop": geometric.RandomCrop,
    "random_resized_crop": geometric.RandomResizedCrop,
    "pad_if_needed": geometric.PadIfNeeded,
    "central_crop": geometric.CentralCrop,
    "fit": geometric.Fit,
}

PHOTOMETRIC: dict[str, type] = {
    "brightness_contrast": photometric.BrightnessContrast,
    "gamma": photometric.Gamma,
    "hue_saturation": photometric.HueSaturation,
    "blur": photometric.Blur,
    "noise": photometric.Noise,
}

MIXING: dict[str, type] = {
    "cut_mix": mixing.CutMix,
    "mosaic": mixing.Mosaic,
    "copy_paste": mixing.CopyPaste,
}

OPERATIONS: dict[str, dict[str, type]] = {"geometric": GEOMETRIC, "photometric": PHOTOMETRIC, "mixing": MIXING}
"""Field of a `Pipeline` -> name -> operation."""

Named = str | Mapping[str, Any]
"""A name, or one name -> its fields."""


def operations(kind: str, named: Sequence[Named], where: str) -> tuple[Any, ...]:
    """The operations in `named`, of the `kind` that is a key of `OPERATIONS`.

    Args:
        where: the field they stand in, for messages ("augmentation.geometric").

    Raises:
        UserError: an unknown name or field (the nearest is named), a value out of range.
    """
    return tuple(_operation(kind, item, f"{where}[{index}]") for index, item in enumerate(named))


def _operation(kind: str, named: Named, where: str) -> Any:
    if isinstance(named, Mapping) and len(named) != 1:
        raise UserError(
            f"{where}: expected one operation, such as {{elastic: {{strength: 0.1}}}}, found {len(named)} names "
            f"({', '.join(map(str, named))}); begin a new list item for each."
        )
    name, fields = (named, None) if isinstance(named, str) else next(iter(named.items()))
    table = OPERATIONS[kind]
    if name not in table:
        home = next((other for other, names in OPERATIONS.items() if name in names), None)
        hint = f" It belongs to '{home}'." if home else did_you_mean(str(name), table)
        raise UserError(f"{where}: there is no {kind} operation '{name}'.{hint}")
    operation = from_plain(table[name], {} if fields is None else fields, f"{where}.{name}")
    if not 0 <= operation.probability <= 1:
        raise UserError(f"{where}.{name}.probability: expected 0 to 1, found {operation.probability}; 1 means always.")
    return operation
