"""Recipes of the semantic architectures."""

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


def unet(data: Path, model: str) -> RunConfig:
    """U-Net, with or without a backbone: AdamW, polynomial fall, cross entropy + Dice, an average of the weights.

    The backbone, which may come with weights, learns at half the decoder's rate. The plain U-Net has none and trains
    from its random start, for which the same rate does.
    """
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig(learning_rate=1e-3, backbone_rate=0.5, weight_decay=1e-2, clip=5.0),
        schedule=ScheduleConfig("poly", warmup_steps=50, power=0.9),
        loss=LossConfig("cross_entropy+dice"),
        ema=0.99,
    )


def deeplab(data: Path, model: str) -> RunConfig:
    """DeepLabV3 and DeepLabV3+: AdamW, polynomial fall, cross entropy + Dice, objects at half to twice their size, an average
    of the weights.

    Published (Chen et al. 2018, section 4; mmsegmentation's schedules of 40,000 to 160,000 steps): SGD at 0.007 to 0.01 for
    batches of 16 of 513 pixels, with the same fall, scales and loss but for Dice. AdamW gets further in the few hundred to few
    thousand steps of a run on one's own data, and needs no batch of 16; the backbone, which mostly comes with weights, learns at
    half the rate. The output stride stays the model's: 16 for DeepLabV3+, as the paper trains it.
    """
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig(learning_rate=1e-3, backbone_rate=0.5, weight_decay=1e-2, clip=5.0),
        schedule=ScheduleConfig("poly", warmup_steps=50, power=0.9),
        loss=LossConfig("cross_entropy+dice", auxiliary_weight=0.4),
        augmentation=AugmentationConfig(scale=(0.5, 2.0)),
        ema=0.99,
    )


def segformer(data: Path, model: str) -> RunConfig:
    """SegFormer as published (section 4.1): AdamW, 6e-5 in the encoder and ten times that in the decoder, linear fall.

    These rates are for an encoder with pretrained weights. From fresh weights the encoder learns faster with
    `optim.backbone_rate` 1.
    """
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig(learning_rate=6e-4, backbone_rate=0.1, weight_decay=0.01, clip=None),
        schedule=ScheduleConfig("poly", warmup_steps=1500, power=1.0),
        loss=LossConfig("cross_entropy"),
    )


def hrnet(data: Path, model: str) -> RunConfig:
    """HRNet, with or without OCR, as its authors train it on Cityscapes: SGD, one rate for all, polynomial fall, cross
    entropy (OCR's region logits at 0.4); and, which they do not, an average of the weights.

    Wang et al. 2019, arXiv:1908.07919, section 5; Yuan et al. 2020, arXiv:1909.11065, section 4.2.
    """
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig("sgd", learning_rate=1e-2, backbone_rate=1.0, weight_decay=5e-4, momentum=0.9, clip=None),
        schedule=ScheduleConfig("poly", warmup_steps=0, power=0.9),
        loss=LossConfig("cross_entropy", auxiliary_weight=0.4),
        augmentation=AugmentationConfig(scale=(0.5, 2.0)),
        ema=0.99,
    )


def pyramid(data: Path, model: str) -> RunConfig:
    """PSPNet and Semantic FPN as mmsegmentation trains them on Cityscapes in batches of 8: SGD, one rate for all, polynomial
    fall, cross entropy (the auxiliary head's at 0.4, Zhao et al. 2017, section 5.1), objects at half to twice their size;
    and, which it does not, an average of the weights.
    """
    return RunConfig(
        data=DataConfig(data),
        model=ModelConfig(model),
        optim=OptimConfig("sgd", learning_rate=1e-2, backbone_rate=1.0, weight_decay=5e-4, momentum=0.9, clip=None),
        schedule=ScheduleConfig("poly", warmup_steps=0, power=0.9),
        loss=LossConfig("cross_entropy", auxiliary_weight=0.4),
        augmentation=AugmentationConfig(scale=(0.5, 2.0)),
        ema=0.99,
    )
