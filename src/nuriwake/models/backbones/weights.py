"""Pretrained weights for a backbone: from a file, or fetched by name with a short patience."""

import re
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor

from nuriwake.core import download
from nuriwake.core.download import fetch, require_answer
from nuriwake.core.errors import RunError, UserError
from nuriwake.models.backbones.base import Backbone, Published
from nuriwake.models.backbones.consent import forbidding_licence, require_consent
from nuriwake.models.state import SUFFIXES, Misfit, compare_state, listed


def weights_file(weights: str | Path, *, published: str | None, who: str, accept_license: bool = False) -> Path:
    """The local file that `weights` means, fetched when it is no file yet.

    Args:
        weights: a path; "pretrained" for the weights published for this backbone; an https address; or a
            Hugging Face id "owner/name".
        published: what "pretrained" stands for: an https address or a Hugging Face id; None when nothing is published.
        who: the backbone's name.
        accept_license: consent to a licence that forbids commercial use, where the weights are no file yet.

    Raises:
        UserError: no such file, a name that means nothing, or consent is missing; then the message holds the licence.
        RunError: the network or the server does not answer, within `core.download.PATIENCE` seconds; says how to give a file.
    """
    text = str(weights)
    if Path(text).is_file():
        return Path(text)
    if text == "pretrained":
        if published is None:
            raise UserError(f"No weights are published for '{who}'; give a file ({', '.join(SUFFIXES)}) or none.")
        text = published
    if isinstance(weights, Path) or not is_name(text):
        raise UserError(
            f"There is no file '{text}' with weights for the backbone '{who}'; give the path of a file "
            f"({', '.join(SUFFIXES)}), 'pretrained', an https address or a Hugging Face id 'owner/name'."
        )
    terms = forbidding_licence(text, who)
    if terms is not None:
        require_consent(text, terms, accept_license=accept_license)
    return _fetch_address(text, who) if _is_address(text) else _fetch_hub(text, who)


def is_name(text: str) -> bool:
    """Whether `text` is an https address or a Hugging Face id, and not the path of a file."""
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.endswith(SUFFIXES)
    return _is_address(text) or bool(hub)


def _is_address(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def load_backbone(backbone: Backbone, state: dict[str, Tensor], *, file: Path, who: str) -> None:
    """Fill `backbone` with the published arrays `state`, all of it or nothing, and add to `backbone.notes` what was done.

    Arrays behind the last feature map (the classifier) are left out. When the file's first convolution takes 3 channels
    and the backbone's another number, it is adapted by `adapt_channels`.

    Raises:
        UserError: one sentence that names the arrays that are missing, unexpected or of another shape.
    """
    state = backbone.convert(state)
    published = backbone.published()
    left_out = [key for key in state if key not in published.names and key.startswith(published.beyond)]
    kept = {key: item for key, item in state.items() if key not in left_out}
    adapted = _adapt_first(kept, published)
    misfit = compare_state(published.shapes, kept)
    if misfit:
        raise UserError(_refusal(misfit, len(published.shapes), file=file, who=who))
    backbone.load_state_dict({published.names[key]: item for key, item in kept.items()}, strict=False)
    note = f"{file.name}: {len(kept)} arrays fill the backbone '{who}'"
    layers = dict.fromkeys(key.rpartition(".")[0] for key in left_out)
    note += f", left out (behind the last feature map): {listed(layers)}" if left_out else ""
    note += f"; {adapted}" if adapted else ""
    backbone.notes = (*backbone.notes, note + ".")


def adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """A convolution kernel (O, 3, kh, kw) for images of `channels` channels: (O, channels, kh, kw).

    One channel: the sum over red, green and blue, so that a grey image answers as its three-channel copy would.
    Otherwise red, green, blue, red, ... in turn, times 3 / channels, so that the answer keeps its size.
    """
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    index = torch.arange(channels, device=kernel.device) % kernel.shape[1]
    return kernel[:, index] * (kernel.shape[1] / channels)


def _adapt_first(state: dict[str, Tensor], published: Published) -> str:
    """Adapt the first convolutions of `state` in place; the sentence that says so, empty when nothing was to do."""
    said = ""
    for key in published.first_convolutions:
        if key in state and key in published.shapes and state[key].ndim == 4 and state[key].shape[1] == 3:
            channels = published.shapes[key][1]
            if channels != 3:
                state[key] = adapt_channels(state[key], channels)
                said = f"the first convolution was adapted from 3 to {channels} channels"
    return said


def _refusal(misfit: Misfit, expected: int, *, file: Path, who: str) -> str:
    other = len(misfit.missing) > expected // 2
    guess = (
        "it looks like the file of another architecture"
        if other
        else "it is not the file of this architecture as published"
    )
    return f"'{file}' does not fit the backbone '{who}': {guess} ({misfit})."


def _fetch_address(address: str, who: str) -> Path:
    """The file behind `address` in PyTorch's cache of checkpoints, verified where its name carries a checksum."""
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(address).path).name
    promised = re.search(r"-([a-f0-9]{8,})\.", target.name)
    return fetch(address, target, sha256=promised[1] if promised else "", what=_WHAT.format(who), otherwise=_OTHERWISE)


def _fetch_hub(name: str, who: str) -> Path:
    """`model.safetensors`, else `pytorch_model.bin`, of the Hugging Face repository `name`."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    for file in files:
        cached = try_to_load_from_cache(name, file)
        if isinstance(cached, str):
            return Path(cached)
    address = f"https://huggingface.co/{name}"
    problem: Exception | None = None
    try:
        require_answer(address)
    except OSError as error:
        problem = error
    else:
        for file in files:
            try:
                return Path(hf_hub_download(name, file, etag_timeout=download.PATIENCE))
            except (
                Exception
            ) as error:  # whatever the client raises (absent file, gated, offline), the advice is the same
                problem = error
    raise RunError(f"{_WHAT.format(who)} could not be fetched from {address} ({problem}); {_OTHERWISE}.")


_WHAT = "The weights of '{}'"
_OTHERWISE = "fetch the file on a machine with a network and give its path as the backbone weights, or train without"
