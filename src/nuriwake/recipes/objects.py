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

    Published (Detectron2, 3x): SGD, rate 0.02 for 16 images, backbone's batch norms frozen, 270,000 steps. AdamW here reaches
    as far in the few thousand steps of a run on one's own data, and does not depend on the batch size as much.
    """
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig(learning_rate=5e-4, backbone_rate=0.5, weight_decay=1e-2, clip=5.0),
        schedule=ScheduleConfig("poly", warmup_steps=200, power=0.9),
        loss=PUBLISHED_LOSS,
        augmentation=JITTER,
        batch_size=4,
        ema=0.99,
    )


def yolact(data: Path, model: str) -> RunConfig:
    """YOLACT. Published: SGD, rate 1e-3 for 8 images, 800,000 steps; AdamW for the same reason as in `regions`."""
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig(learning_rate=5e-4, backbone_rate=0.5, weight_decay=5e-4, clip=10.0),
        schedule=ScheduleConfig("poly", warmup_steps=200, power=0.9),
        loss=PUBLISHED_LOSS,
        augmentation=JITTER,
        ema=0.99,
    )


def solov2(data: Path, model: str) -> RunConfig:
    """SOLOv2. Published: SGD, rate 0.01 for 16 images, gradients clipped at 35; AdamW for the same reason as in `regions`."""
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig(learning_rate=5e-4, backbone_rate=0.5, weight_decay=1e-2, clip=35.0),
        schedule=ScheduleConfig("poly", warmup_steps=200, power=0.9),
        loss=PUBLISHED_LOSS,
        augmentation=JITTER,
        batch_size=4,
        ema=0.99,
    )


def mask2former(data: Path, model: str) -> RunConfig:
    """Mask2Former as published (Cheng et al. 2022, section 4.1): AdamW 1e-4 for 16 images, a tenth of it in the backbone, weight
    decay 0.05, gradients clipped at 0.01, jitter from 0.1 to 2 (here from 0.5: crops are smaller)."""
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig(learning_rate=1e-4, backbone_rate=0.1, weight_decay=0.05, clip=0.01),
        schedule=ScheduleConfig("poly", warmup_steps=10, power=0.9),
        loss=PUBLISHED_LOSS,
        augmentation=JITTER,
        batch_size=4,
        ema=0.99,
    )


def eomt(data: Path, model: str) -> RunConfig:
    """EoMT as published (Kerssies et al. 2025, section 4 and appendix A): AdamW 1e-4 for 16 images, layer-wise decay 0.8, weight
    decay 0.05, gradients clipped at 0.01, polynomial fall; the mask annealing follows the run's progress."""
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig(learning_rate=1e-4, backbone_rate=1.0, layer_decay=0.8, weight_decay=0.05, clip=0.01),
        schedule=ScheduleConfig("poly", warmup_steps=500, power=0.9),
        loss=PUBLISHED_LOSS,
        augmentation=JITTER,
        batch_size=4,
        ema=0.99,
    )
