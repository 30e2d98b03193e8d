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
