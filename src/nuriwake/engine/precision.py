"""Which arithmetic: fp32, bf16 autocast, or fp16 autocast with a scaled loss."""

from contextlib import AbstractContextManager, nullcontext

import torch

from nuriwake.core.errors import UserError

Precision = str


def fast_bf16(device: torch.device) -> bool:
    """True where bf16 arithmetic is fast: CUDA that computes it natively, or a CPU with AMX or AVX-512 BF16.

    Elsewhere PyTorch accepts bf16 and converts in software, which is several times slower than fp32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(cpu_features() & {"amx_bf16", "avx512_bf16"})


def cpu_features() -> set[str]:
    """The instruction sets that decide: of amx_bf16, avx512_bf16, avx512_f, avx2 those this CPU has."""
    known = ("amx_bf16", "avx512_bf16", "avx512_f", "avx2")
    ask = vars(torch.cpu).get("get_capabilities")
    if ask is not None:
        found = ask()
        return {name for name in known if found.get(name)}
    older = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    return {name for name, probe in older.items() if probe in vars(torch.cpu) and vars(torch.cpu)[probe]()}


def choose_precision(device: torch.device) -> tuple[Precision, str]:
    """(fp32, bf16 or fp16, the reason in words) for `device`."""
    if fast_bf16(device):
        return "bf16", f"this {_kind(device)} computes bf16 natively"
    if device.type == "cuda":
        return "fp16", "this GPU computes fp16 fast but not bf16; the loss is scaled"
    return "fp32", "this CPU has neither AMX nor AVX-512 BF16, so bf16 would be slower than fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context for forward and loss. Raises UserError for fp16 on a CPU."""
    if precision == "fp32":
        return nullcontext()
    if precision == "fp16" and device.type != "cuda":
        raise UserError("precision: fp16 needs a CUDA GPU; on the CPU use bf16 or fp32.")
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def loss_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss for fp16; passes everything through otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def scale_is_lost(scaler: torch.amp.GradScaler) -> bool:
    """Has `scaler` given up so many steps that it no longer enlarges the loss? Waits for a GPU.

    It begins with 2 ** 16 and halves that with every step whose gradient is not finite and which therefore changes no weight;
    only 2000 good steps on end double it again.
    """
    return scaler.is_enabled() and scaler.get_scale() < 1.0


def _kind(device: torch.device) -> str:
    return "GPU" if device.type == "cuda" else "CPU"
