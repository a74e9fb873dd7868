"""Arms the named points in every process of a gateway under test.

Python imports a module of this name at its start when the folder is on
PYTHONPATH. Nothing happens unless ``FAULT_POINTS`` names a folder.
"""

from __future__ import annotations

import os

if os.environ.get("FAULT_POINTS"):
    from tests.faults.launcher import install

    install()
