"""What every model promises. The only base class of the room; architectures derive from it directly."""

import inspect
from collections.abc import Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from nuriwake.core.errors import UserError


class Model(nn.Module):
    """Images in, output out: `forward(images)` with float32 (B, C, H, W), normalised, returns a NamedTuple of `outputs`.

    A constructor takes `(in_channels, classes)` and, keyword-only and with defaults, its options.

    Attributes:
        input_multiple: acceptable sides lie this far apart; 1 when any side from `input_minimum` on works.
        input_minimum: the smallest acceptable side.
        any_size: an image that is seen whole may have any sides from `input_minimum` on, since the published computation is
            made for those; its crops and tiles have acceptable sides, so that they lie on the cells of the maps.
        margin: pixels of the input that the output lacks on every side (unpadded convolutions); 0 for most.
        largest_stretch: inputs of up to so many times the side of those that it was trained with mean the same to it; None where
            nothing in it is a share of the input (grids, positions, anchors), so that their size does not matter.
        notes: sentences on what was done when it was built (weights used and left out), for whoever built it to print.
    """

    input_multiple: int = 1
    input_minimum: int = 1
    any_size: bool = False
    margin: int = 0
    largest_stretch: float | None = None
    notes: tuple[str, ...] = ()

    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest acceptable input size (height, width) that is nowhere less than the given one.

        It knows nothing of `margin`: to have the output cover an image, ask for the image's sides plus 2 * `margin`.
        """
        return _round_up(self, height), _round_up(self, width)

    def fit_image(self, height: int, width: int) -> tuple[int, int]:
        """As `fit_size`, for an image that is seen whole: its own size where the model takes any."""
        if self.any_size:
            return max(height, self.input_minimum), max(width, self.input_minimum)
        return self.fit_size(height, width)

    def require_size(self, images: Tensor) -> None:
        """Refuse `images` (B, C, H, W) of a size that is not its own `fit_image`; skipped under compile and export.

        Raises:
            UserError: with the size found and the next acceptable one.
        """
        if torch.compiler.is_compiling():
            return
        height, width = images.shape[-2:]
        fit = self.fit_image(height, width)
        if fit != (height, width):
            raise UserError(
                f"{type(self).__name__} does not take images of {height}x{width} pixels (height x width); "
                f"pad them to {fit[0]}x{fit[1]} (the method fit_image says so for any size)."
            )

    def forward_training(self, images: Tensor, truth: Any) -> Any:
        """The output from which the loss is taken: `forward(images)`, unless the truth takes part in making it.

        Args:
            images: as in `forward`.
            truth: what the task's `stack` made, on the images' device; for those that choose their regions by it.
        """
        return self(images)

    def set_progress(self, share: float) -> None:
        """Hear how much of the training is behind: the loop says it before every step, also after it was resumed.

        A hook for models whose training follows a schedule of their own (EoMT's mask annealing); most ignore it. What it
        changes about the model stands in a buffer, so that a checkpoint and the running average hold it.

        Args:
            share: steps done over steps in all, 0..1.
        """

    def stages(self) -> Sequence[nn.Module]:
        """The modules from the input to the output, every parameter in exactly one: the order for layer-wise rate decay."""
        return list(self.children())

    def backbone(self) -> nn.Module | None:
        """The part that pretrained weights may fill and that learns at a lower rate; None when there is no such part."""
        return None


def built_class(constructor: Any) -> type[Model] | None:
    """The class of what `constructor` builds: itself, or what a function is annotated to return; None where that is no Model."""
    if inspect.isfunction(constructor):
        try:
            constructor = get_type_hints(constructor).get("return")
        except (NameError, TypeError):
            return None
    return constructor if inspect.isclass(constructor) and issubclass(constructor, Model) else None


def _round_up(model: Model, side: int) -> int:
    """The smallest `input_minimum + n * input_multiple` (n = 0, 1, ...) from `side` on."""
    steps = -(-max(side - model.input_minimum, 0) // model.input_multiple)
    return model.input_minimum + steps * model.input_multiple
