"""Published segmentation weights that can be fetched by name: where, how large, what they score, and under which licence."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from nuriwake.core.download import fetch
from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean
from nuriwake.models.backbones.consent import require_consent
from nuriwake.weights.published.eomt import LICENCE as EOMT_LICENCE
from nuriwake.weights.published.segformer import LICENCE as SEGFORMER_LICENCE


@dataclass(frozen=True)
class Weights:
    """One published checkpoint.

    Attributes:
        address: of the file, or of the folder that holds `files`.
        megabytes: about how much is fetched.
        licence: of the weights.
        score: the headline score with its data set, and where that is stated.
        commercial: False when the licence forbids commercial use; fetching then needs consent.
        sha256: the checksum, or its beginning, where the publisher states one; empty otherwise.
        files: names in the folder `address`; empty when `address` is the file itself.
    """

    address: str
    megabytes: float
    licence: str
    score: str
    commercial: bool = field(default=True, kw_only=True)
    sha256: str = field(default="", kw_only=True)
    files: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def verified_by(self) -> str:
        """What a fetched file is compared with."""
        if self.sha256:
            return f"sha256 {self.sha256}"
        hub = self.address.startswith("https://huggingface.co/")
        return "sha256 that the Hub states" if hub else "its length and published size"


def _torchvision(file: str, megabytes: float, miou: float) -> Weights:
    return Weights(
        f"https://download.pytorch.org/models/{file}",
        megabytes,
        "BSD-3-Clause (torchvision); trained on COCO, whose images have terms of their own",
        f"mIoU {miou} on COCO val2017, the 20 classes of VOC (torchvision's documentation)",
        sha256=file.removesuffix(".pth").rpartition("-")[2],
    )


def _mask_rcnn(file: str, megabytes: float, box: float, mask: float) -> Weights:
    return Weights(
        f"https://download.pytorch.org/models/{file}",
        megabytes,
        "BSD-3-Clause (torchvision); trained on COCO, whose images have terms of their own",
        f"AP {mask} of masks and {box} of boxes on COCO val2017 (torchvision's documentation)",
        sha256=file.removesuffix(".pth").rpartition("-")[2],
    )


def _detectron2(path: str, megabytes: float, score: str) -> Weights:
    # The end of the file names is no known checksum: detectron2/model_zoo/model_zoo.py calls it a commit.
    return Weights(
        f"https://dl.fbaipublicfiles.com/detectron2/{path}",
        megabytes,
        "CC BY-SA 3.0 (Detectron2 model zoo); trained on COCO, whose images have terms of their own",
        f"{score} on COCO val2017 (Detectron2's model zoo)",
    )


def _yolact(name: str, megabytes: float, ap: float) -> Weights:
    return Weights(
        f"https://huggingface.co/dbolya/{name.replace('_', '-')}/resolve/main/{name}_54_800000.pth",
        megabytes,
        "MIT (YOLACT's repository); trained on COCO, whose images have terms of their own",
        f"AP {ap} of masks on COCO test-dev at 550x550 (the authors' repository)",
    )


def _eomt(name: str, megabytes: float, score: str) -> Weights:
    return Weights(
        f"https://huggingface.co/tue-mps/{name}/resolve/main/pytorch_model.bin",
        megabytes,
        EOMT_LICENCE,
        f"{score} (the authors' model_zoo/dinov2.md)",
    )


_OBJECTS, _PANOPTIC = "COCO-InstanceSegmentation/mask_rcnn", "COCO-PanopticSegmentation/panoptic_fpn"


def _segformer(name: str, megabytes: float, miou: float) -> Weights:
    data = "ADE20K" if "-ade-" in name else "Cityscapes"
    return Weights(
        f"https://huggingface.co/nvidia/{name}/resolve/main",
        megabytes,
        SEGFORMER_LICENCE,
        f"mIoU {miou} on {data} val, single scale (arXiv:2105.15203)",
        commercial=False,
        files=("config.json", "preprocessor_config.json", "pytorch_model.bin"),
    )


_SIZES = (
    (15, 37.4, 76.2),
    (55, 42.2, 78.5),
    (110, 46.5, 81.0),
    (189, 49.4, 81.7),
    (256, 50.3, 82.3),
    (339, 51.0, 82.4),
)
_ADE20K_SIDES = (512, 512, 512, 512, 512, 640)

_EOMT = (
    ("coco_panoptic_eomt_small_640_2x", 96, "PQ 46.7 on COCO val2017"),
    ("coco_panoptic_eomt_base_640_2x", 375, "PQ 51.6 on COCO val2017"),
    ("coco_panoptic_eomt_large_640", 1270, "PQ 56.0 on COCO val2017"),
    ("coco_panoptic_eomt_large_1280", 1290, "PQ 58.3 on COCO val2017"),
    ("coco_panoptic_eomt_giant_640", 4650, "PQ 57.0 on COCO val2017"),
    ("coco_instance_eomt_large_640", 1270, "AP 45.2 of masks on COCO val2017"),
    ("coco_instance_eomt_large_1280", 1290, "AP 48.8 of masks on COCO val2017"),
    ("ade20k_panoptic_eomt_large_640", 1270, "PQ 50.6 on ADE20K val"),
    ("ade20k_panoptic_eomt_large_1280", 1290, "PQ 51.7 on ADE20K val"),
    ("ade20k_semantic_eomt_large_512", 1270, "mIoU 58.4 on ADE20K val"),
    ("cityscapes_semantic_eomt_large_1024", 1280, "mIoU 84.2 on Cityscapes val"),
)
"""Those that begin with DINOv2; the ones over DINOv3 are another architecture under another licence."""

WEIGHTS: dict[str, Weights] = {
    "torchvision/deeplabv3_resnet50": _torchvision("deeplabv3_resnet50_coco-cd0a2569.pth", 160.5, 66.4),
    "torchvision/deeplabv3_resnet101": _torchvision("deeplabv3_resnet101_coco-586e9e4e.pth", 233.2, 67.4),
    "torchvision/deeplabv3_mobilenet_v3_large": _torchvision("deeplabv3_mobilenet_v3_large-fc3c493d.pth", 42.3, 60.3),
    "torchvision/maskrcnn_resnet50_fpn": _mask_rcnn("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 169.8, 37.9, 34.6),
    "torchvision/maskrcnn_resnet50_fpn_v2": _mask_rcnn("maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", 177.2, 47.4, 41.8),
    "detectron2/mask_rcnn_R_50_FPN_3x": _detectron2(
        f"{_OBJECTS}_R_50_FPN_3x/137849600/model_final_f10217.pkl", 178, "AP 37.2 of masks and 41.0 of boxes"
    ),
    "detectron2/mask_rcnn_R_101_FPN_3x": _detectron2(
        f"{_OBJECTS}_R_101_FPN_3x/138205316/model_final_a3ec72.pkl", 254, "AP 38.6 of masks and 42.9 of boxes"
    ),
    "detectron2/panoptic_fpn_R_50_3x": _detectron2(
        f"{_PANOPTIC}_R_50_3x/139514569/model_final_c10459.pkl", 184, "PQ 41.5"
    ),
    "detectron2/panoptic_fpn_R_101_3x": _detectron2(
        f"{_PANOPTIC}_R_101_3x/139514519/model_final_cafdb1.pkl", 260, "PQ 43.0"
    ),
    "yolact/yolact_resnet50": _yolact("yolact_resnet50", 125, 28.2),
    "yolact/yolact_resnet101": _yolact("yolact_base", 201, 29.8),
    **{
        f"nvidia/segformer_b{size}_ade20k": _segformer(
            f"segformer-b{size}-finetuned-ade-{side}-{side}", megabytes, score
        )
        for size, (side, (megabytes, score, _)) in enumerate(zip(_ADE20K_SIDES, _SIZES, strict=True))
    },
    **{
        f"nvidia/segformer_b{size}_cityscapes": _segformer(
            f"segformer-b{size}-finetuned-cityscapes-1024-1024", megabytes, score
        )
        for size, (megabytes, _, score) in enumerate(_SIZES)
    },
    **{f"tue-mps/{name}": _eomt(name, megabytes, score) for name, megabytes, score in _EOMT},
}
"""Name -> published weights. Hosts that are gone (mmsegmentation's) are not in it: give those files yourself."""


def cache_folder() -> Path:
    """Where fetched weights are kept: NURIWAKE_CACHE, else the user's cache folder."""
    given = os.environ.get("NURIWAKE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "nuriwake" / "weights"


def fetch_weights(name: str, *, accept_license: bool = False, folder: Path | None = None) -> Path:
    """The local file or folder of the published weights `name`, fetched into the cache when it is not there yet.

    Args:
        accept_license: consent to a licence that forbids commercial use.
        folder: the cache; None takes `cache_folder()`.

    Raises:
        UserError: no such name, or consent is missing; the message holds the licence.
        RunError: no network, or what came is not what was promised; the message says how to give a file.
    """
    if name not in WEIGHTS:
        raise UserError(f"There are no published weights named '{name}'.{did_you_mean(name, WEIGHTS)}")
    weights = WEIGHTS[name]
    if not weights.commercial:
        require_consent(name, weights.licence, accept_license=accept_license)
    root = (folder or cache_folder()) / name
    if not weights.files:
        target = root / weights.address.rpartition("/")[2]
        return fetch(weights.address, target, sha256=weights.sha256, megabytes=weights.megabytes)
    for file in weights.files:
        # Beside the weights, the other files of a folder weigh nothing.
        size = None if file.endswith(".json") else weights.megabytes
        fetch(f"{weights.address}/{file}", root / file, megabytes=size)
    return root
