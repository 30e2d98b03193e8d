"""`nuriwake demo-data`."""

from pathlib import Path


def demo_data(folder: Path, *, train: int = 48, val: int = 12, seed: int = 0) -> None:
    """Draw a small data set of textured shapes, to try everything on.

    Args:
        folder: where to draw it.
        train: images to train on.
        val: images to validate on.
        seed: of the drawing.
    """
    from nuriwake.recipes.demo_data import draw_demo_data

    print(draw_demo_data(folder, train=train, val=val, seed=seed))
