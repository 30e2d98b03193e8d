"""What every model promises. The only base class of the room; architectures derive from it directly."""

from collections.abc import Sequence

from torch import nn


class Model(nn.Module):
    """Images in, output out: `forward(images)` with float32 (B, C, H, W), normalised, returns a NamedTuple of `outputs`.

    Attributes:
        input_multiple: both sides of the input must be multiples of it (the caller pads); 1 when any size works.
        margin: pixels of the input that the output lacks on every side (unpadded convolutions); 0 for most.
    """

    input_multiple: int = 1
    margin: int = 0

    def stages(self) -> Sequence[nn.Module]:
        """The modules from the input to the output, every parameter in exactly one: the order for layer-wise rate decay."""
        return list(self.children())

    def backbone(self) -> nn.Module | None:
        """The part that pretrained weights may fill and that learns at a lower rate; None when there is no such part."""
        return None
