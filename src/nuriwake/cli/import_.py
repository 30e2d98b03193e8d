"""`nuriwake import`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def import_(
    checkpoint: str,
    *,
    out: Path,
    architecture: str | None = None,
    classes: Path | None = None,
    task: str | None = None,
    things: Path | None = None,
    options: str | None = None,
    accept_license: bool = False,
) -> None:
    """Turn published weights of another library into a bundle; nothing in the file is executed.

    Args:
        checkpoint: a file (.pth, .pt, .bin, .ckpt, .pkl, .safetensors), a folder with config.json, or a name
            of `nuriwake models --weights`, which is fetched.
        out: the bundle to write (*.safetensors).
        architecture: the model or family, where the arrays alone could mean several.
        classes: a file with the class names, one a line or a JSON list; label 0 first.
        task: semantic, instance or panoptic: what a Mask2Former or EoMT was trained for, which its file does not say; without
            it that is told from the numbers of classes and queries.
        things: a file like `classes` with the names of the classes that are counted, for panoptic answers of such a model.
        options: of the model, as JSON or YAML, above those told from the file: '{"align_corners": true}'.
        accept_license: consent to the licence of weights that forbid commercial use.
    """
    from nuriwake.core.errors import UserError
    from nuriwake.weights.catalogue import WEIGHTS, fetch_weights
    from nuriwake.weights.checkpoint import read_checkpoint
    from nuriwake.weights.class_lists import read_class_names

    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: a bundle's name ends in .safetensors.")
    names, counted = (None if file is None else read_class_names(file) for file in (classes, things))
    path = Path(checkpoint)
    if checkpoint in WEIGHTS and not path.exists():
        path = fetch_weights(checkpoint, accept_license=accept_license)
    imported = read_checkpoint(
        path, architecture=architecture, classes=names, task=task, things=counted, options=_options(options)
    )
    imported.save(out)
    print("\n".join(imported.lines()))
    print(f"{checkpoint} -> {out}")


def _options(text: str | None) -> Mapping[str, Any]:
    import yaml

    from nuriwake.core.errors import UserError

    try:
        found = {} if text is None else yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"--options: expected a mapping such as '{{\"align_corners\": true}}', found {text!r}.")
    return found
