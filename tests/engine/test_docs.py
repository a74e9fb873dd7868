"""The example of the engine's documentation runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

DOCS = Path(__file__).parents[2] / "docs" / "engine.md"


def test_the_library_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    # Fewer queries and no δ: what is tested is that the names and calls are true.
    quick = example.replace(
        'SearchParams(strategy="he-sit")', 'SearchParams(strategy="he-sit", budget=4)'
    ).replace("packaged_removers().values()", "()")
    assert quick != example
    rows, columns = np.mgrid[:96, :128]
    pixels = (2000 + 900 * np.sin(rows / 9) * np.cos(columns / 13)).astype(np.uint16)
    torch.manual_seed(0)
    exec(compile(quick, str(DOCS), "exec"), {"pixels": pixels})
