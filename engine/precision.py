"""Where bfloat16 is good enough, and whether the device computes it."""

from __future__ import annotations

import torch


def reduced_precision(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where the device does; elsewhere change nothing.

    For steps that only rank or give signs: δ's gradients and the search. What
    they find is confirmed in float32. Measured on a processor with
    AVX512-BF16: 1.3 times faster for δ, 1.8 times for the search.

    Parameters
    ----------
    device
        Where the models lie.
    """
    # Autocast knows only some devices and warns where one is absent, so the
    # context that changes nothing is always the processor's.
    kind = device.type if computes_bfloat16(device) else "cpu"
    return torch.autocast(kind, torch.bfloat16, enabled=computes_bfloat16(device))


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 itself, faster than in float32.

    Parameters
    ----------
    device
        A processor or a CUDA device; any other says no.
    """
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    if device.type == "cuda" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False
