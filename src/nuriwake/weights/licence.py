"""The licence of the weights that a training began from: what its result inherits."""

import hashlib
import re
from pathlib import Path, PurePosixPath

from nuriwake.models.backbones import BACKBONES
from nuriwake.models.backbones.consent import forbidding_licence, require_consent
from nuriwake.models.backbones.weights import is_name
from nuriwake.models.catalogue import resolve_model


def weights_licence(model: str, weights: str | None) -> str:
    """The licence of the backbone weights of a training, a sentence for the bundle; empty when it began from nothing.

    Args:
        model: the name of the model.
        weights: what `build_model` was given as `backbone_weights`.

    Known are the published weights of a backbone: as "pretrained", by their address, or as a file of their name where that
    ends in a checksum of the content (torchvision's) and the content agrees.
    """
    if weights is None:
        return ""
    backbone = resolve_model(model).backbone or ""
    published, licence = _published(backbone)
    if published is not None and licence and _is_published(weights, published):
        return f"backbone weights: {licence}"
    return f"unknown: {weights if weights == 'pretrained' else PurePosixPath(weights).name}"


def ask_consent(model: str, weights: str | None, *, accept_license: bool) -> None:
    """Refuse without consent what `build_model` would refuse of these weights, and read nothing.

    Raises:
        UserError: the weights are named, their licence forbids commercial use, and that is not accepted.
    """
    backbone = resolve_model(model).backbone or ""
    source = _published(backbone)[0] if weights == "pretrained" else weights
    if source is None or Path(source).is_file() or not is_name(source):
        return
    terms = forbidding_licence(source, backbone)
    if terms is not None:
        require_consent(source, terms, accept_license=accept_license)


def _published(backbone: str) -> tuple[str | None, str | None]:
    """Address or id of the weights published for `backbone`, and their licence."""
    if backbone in BACKBONES:
        return BACKBONES[backbone].published, BACKBONES[backbone].licence
    import timm

    settings = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    return (None, None) if settings is None else (settings.hf_hub_id, settings.license)


def _is_published(weights: str, published: str) -> bool:
    if weights in ("pretrained", published):
        return True
    checksum = re.search(r"-([0-9a-f]{8,})\.\w+$", published)
    file = Path(weights)
    if checksum is None or file.name != PurePosixPath(published).name or not file.is_file():
        return False
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest().startswith(checksum[1])
