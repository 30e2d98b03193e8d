"""Recipes of the architectures for instances and panoptic segmentation."""

from pathlib import Path

from nuriwake.engine.config import (
    AugmentationConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
)

PUBLISHED_LOSS = LossConfig({})
"""Every term at its published weight."""

JITTER = AugmentationConfig(scale=(0.5, 2.0))
"""Large-scale jitter (Ghiasi et al. 2021, section 3): objects at half to twice their size."""


def regions(data: Path, model: str) -> RunConfig:
    """Mask R-CNN and Panoptic FPN.

    Published (Detectron2, configs/Base-RCNN-FPN.yaml and its 3x schedule): SGD, rate 0.02 for 16 images, momentum 0.9, weight
    decay 1e-4, 1,000 steps of warm-up, 270,000 steps, the backbone's batch norms and first two stages frozen. AdamW here reaches
    as far in the few thousand steps of a run on one's own data, and does not depend on the batch size as much. The norms learn:
    one's own images are often none of the photographs that the backbone's statistics were taken from. For photographs and a
    pretrained backbone, `model.options.frozen_norm` keeps them as Detectron2 does.
    """
    return _objects(data, model, OptimConfig(learning_rate=5e-4, backbone_rate=0.5, weight_decay=1e-2, clip=5.0))


def yolact(data: Path, model: str) -> RunConfig:
    """YOLACT. Published (the authors' data/config.py): SGD, rate 1e-3 for 8 images, momentum 0.9, weight decay 5e-4, 500 steps of
    warm-up, 800,000 steps; AdamW for the same reason as in `regions`."""
    optim = OptimConfig(learning_rate=5e-4, backbone_rate=0.5, weight_decay=5e-4, clip=10.0)
    return _objects(data, model, optim, batch_size=None)


def solov2(data: Path, model: str) -> RunConfig:
    """SOLOv2. Published (Wang et al. 2020, section 4; mmdetection's configs/solov2): SGD, rate 0.01 for 16 images, momentum 0.9,
    weight decay 1e-4, gradients clipped at 35, 500 steps of warm-up; AdamW for the same reason as in `regions`."""
    return _objects(data, model, OptimConfig(learning_rate=5e-4, backbone_rate=0.5, weight_decay=1e-2, clip=35.0))


def mask2former(data: Path, model: str) -> RunConfig:
    """Mask2Former as published (Cheng et al. 2022, section 4.1; the authors' configs): AdamW 1e-4 for 16 images, a tenth of it in
    the backbone, weight decay 0.05, gradients clipped at 0.01, no warm-up to speak of, polynomial fall (ADE20K, Cityscapes; COCO
    in steps), jitter from 0.1 to 2 (here from 0.5: crops are smaller)."""
    optim = OptimConfig(learning_rate=1e-4, backbone_rate=0.1, weight_decay=0.05, clip=0.01)
    return _objects(data, model, optim, warmup_steps=10)


def eomt(data: Path, model: str) -> RunConfig:
    """EoMT as published (Kerssies et al. 2025, section 4 and appendix A; the authors' lightning_module.py and configs): AdamW 1e-4
    for 16 images, layer-wise decay 0.8, weight decay 0.05 (theirs on norms and biases too), gradients clipped at 0.01, polynomial
    fall with power 0.9; the head rises in 500 steps, during which the backbone waits, and the backbone in the 1,000 after them;
    jitter from 0.1 to 2 (here from 0.5: crops are smaller). The mask annealing follows the run's progress."""
    optim = OptimConfig(learning_rate=1e-4, backbone_rate=1.0, layer_decay=0.8, weight_decay=0.05, clip=0.01)
    return _objects(data, model, optim, warmup_steps=500, backbone_warmup_steps=1000)


def _objects(
    data: Path,
    model: str,
    optim: OptimConfig,
    *,
    warmup_steps: int = 200,
    backbone_warmup_steps: int = 0,
    batch_size: int | None = 4,
) -> RunConfig:
    """What the recipes have in common: the polynomial fall, the published loss, jitter, an average of the weights."""
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=optim,
        schedule=ScheduleConfig("poly", warmup_steps, power=0.9, backbone_warmup_steps=backbone_warmup_steps),
        loss=PUBLISHED_LOSS,
        augmentation=JITTER,
        batch_size=batch_size,
        ema=0.99,
    )
