"""Recipes of the semantic architectures."""

from pathlib import Path

from nuriwake.engine.config import DataConfig, LossConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig


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
