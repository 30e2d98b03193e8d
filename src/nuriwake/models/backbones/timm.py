"""Any timm model that gives feature maps, as a backbone."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean
from nuriwake.models.backbones.base import Backbone, Published
from nuriwake.models.state import compare_state

# timm's window and token models insist on their training size unless told so; which word they know differs by model.
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmBackbone(Backbone):
    """The feature maps of the timm model `name`, every resolution it has, channels first.

    Args:
        output_stride: below 32, passed to timm, which dilates what it can.

    Raises:
        UserError: timm has no such model, or the model gives no feature maps or cannot be dilated.
    """

    def __init__(self, name: str, in_channels: int, *, output_stride: int = 32) -> None:
        super().__init__()
        self.name, self.in_channels, self.output_stride = name, in_channels, output_stride
        self.body = _create(name, in_channels, output_stride)
        self.channels = tuple(self.body.feature_info.channels())
        self.strides = tuple(self.body.feature_info.reduction())
        if output_stride != 32 and max(self.strides) != output_stride:
            raise UserError(f"timm cannot give '{name}' the output stride {output_stride}; it has {max(self.strides)}.")
        layout = getattr(self.body, "output_fmt", None)
        self._channels_come_last = str(getattr(layout, "value", layout)) == "NHWC"

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> maps (B, channels[i], H/strides[i], W/strides[i])."""
        maps = self.body(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_come_last else list(maps)

    def cut(self, maps: int) -> None:
        """As the base's, so far as timm leaves it out: its MobileNetV3 and EfficientNet keep all their arrays, and so do
        the files that segmentation_models_pytorch writes of them."""
        whole = self.body.state_dict()
        self.body = _create(self.name, self.in_channels, self.output_stride, maps=maps)
        self.body.load_state_dict({key: whole[key] for key in self.body.state_dict()})
        self.channels, self.strides = self.channels[:maps], self.strides[:maps]

    def stages(self) -> Sequence[nn.Module]:
        if next(self.body.parameters(recurse=False), None) is not None:
            return [self.body]
        stages: list[nn.Module] = []
        for child in self.body.children():
            stages.extend(child if isinstance(child, nn.Sequential) else [child])
        return stages

    def published(self) -> Published:
        whole = _whole(self.name, self.in_channels)
        # timm's wrappers flatten names ("stages.0" -> "stages_0") or put "model." in front; nothing else changes.
        own = {_flat(key): key for key in self.body.state_dict()}
        shapes = {key: item.shape for key, item in whole.state_dict().items()}
        names = {key: f"body.{own[_flat(key)]}" for key in shapes if _flat(key) in own}
        beyond = tuple(key for key in shapes if key not in names)
        first = whole.pretrained_cfg.get("first_conv") or ()
        first = (first,) if isinstance(first, str) else tuple(first)
        kept = {key: shapes[key] for key in names}
        return Published(names, kept, beyond, tuple(f"{key}.weight" for key in first))

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`state` under timm's names: a file in the authors' own layout goes through the filter timm has for it."""
        import timm

        whole = _whole(self.name, self.in_channels)
        if not compare_state({key: item.shape for key, item in whole.state_dict().items()}, state).missing:
            return state
        module = import_module(timm.models.model_entrypoint(self.name.split(".")[0]).__module__)
        change = vars(module).get("checkpoint_filter_fn")
        if change is None:
            return state
        try:
            return dict(change(dict(state), whole))
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError):
            # The filter met a file it is not for; the strict comparison that follows says what is wrong with it.
            return state


def timm_names() -> list[str]:
    """The architectures timm knows."""
    import timm

    return timm.list_models()


def hub_id(name: str) -> str | None:
    """The Hugging Face id of the published weights of the timm model `name`, None when there are none."""
    import timm

    settings = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return settings.hf_hub_id if settings is not None else None


def hub_licence(hub: str, name: str) -> str | None:
    """The licence that timm states for the Hugging Face repository `hub`: its own, or one that holds what timm's `name` takes."""
    import timm

    own = hub.removeprefix("timm/") if hub.startswith("timm/") else None
    settings = timm.get_pretrained_cfg(name if own is None or hub_id(name) == hub else own, allow_unregistered=True)
    return settings.license if settings is not None and settings.hf_hub_id == hub else None


def _create(name: str, in_channels: int, output_stride: int, *, maps: int | None = None) -> Any:
    """timm's model with all feature maps, or the first `maps`."""
    import timm

    if name.split(".")[0] not in timm.list_models():
        raise UserError(f"timm has no model '{name}'.{did_you_mean(name, timm.list_models())}")
    extra: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    if maps is not None:
        extra["out_indices"] = tuple(range(maps))
    problem: Exception | None = None
    for any_size in ANY_SIZE:
        try:
            body = timm.create_model(
                name, pretrained=False, features_only=True, in_chans=in_channels, **extra, **any_size
            )
        except TypeError as error:
            problem = error
            continue
        except (RuntimeError, AttributeError, AssertionError, NotImplementedError, ValueError) as error:
            raise UserError(f"timm's '{name}' gives no feature maps ({error}).") from error
        if not any_size:
            _refuse_fixed_size(name)
        return body
    raise UserError(f"timm's '{name}' cannot be built with these options ({problem}).")


def _refuse_fixed_size(name: str) -> None:
    import timm

    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        height, width = settings.input_size[-2:]
        raise UserError(f"timm's '{name}' takes images of {height}x{width} pixels only; choose another backbone.")


def _whole(name: str, in_channels: int) -> Any:
    """The classification model without memory behind it: names and shapes only."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name, pretrained=False, in_chans=in_channels)


def _flat(key: str) -> str:
    return key.removeprefix("model.").replace(".", "_")
