"""How objects are protected, and by which workers."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from config.schema.base import Name, Settings
from engine.params import ProtectParams


class Window(Settings):
    """A window in rescaled units, as a viewer's preset (PS3.3 C.11.2.1.2)."""

    center: float
    width: float = Field(gt=1)


class WindowPresets(Settings):
    """Windows under which images of a kind are looked at."""

    when: str
    """CEL over DICOM keywords, as in rules."""
    windows: tuple[Window, ...] = Field(min_length=1, max_length=4)


class Ensemble(Settings):
    """Which images a diagnosis ensemble speaks for."""

    name: Name
    when: str
    """CEL over DICOM keywords, as in rules."""
    directory: Path | None = None
    """Absent: the packaged ensemble of that name."""


class Protection(Settings):
    """The engine's settings."""

    ensembles: tuple[Ensemble, ...] = (
        Ensemble(
            name="brain-mri",
            when='Modality == "MR" && BodyPartExamined in ["HEAD", "BRAIN"]',
        ),
    )
    """First whose condition holds; none: the label-free objective."""
    logo: Path | None = None
    params: ProtectParams = Field(default_factory=ProtectParams)
    windows: tuple[WindowPresets, ...] = ()
    """The first whose condition holds adds its windows to the image's own."""
    max_own_windows: int = Field(default=2, ge=1, le=4)
    """How many of the windows an image brings are judged."""
    one_bit: Literal["hold", "convert"] = "hold"
    """Bitmaps: held, or shown as 8 bits and marked."""
    split_frames: Literal["auto", "never", "always"] = "auto"
    """Whether frames of a grey multi-frame image become objects of their own:
    ``auto`` where HU or a rescale that varies by frame would be lost."""
    batch_frames: int = Field(default=8, ge=1)
    """Frames that share forward passes, as far as ``worker.memory_bytes`` allows."""
    max_frames: int = Field(default=8000, ge=1)
    """Memory does not depend on it; time does."""
    device: str = "auto"
    when_not_fooled: Literal["send", "hold"] = "send"
    """What to do with an image whose best mark did not change the prediction."""


class Jobs(Settings):
    """The record of the workers' jobs."""

    keep_days: float = Field(default=7.0, gt=0)
    """How long finished jobs can be looked up; what is held stays."""


MODELS_BYTES: Final = 928 << 20
"""Octets that a worker takes with torch and an ensemble loaded and used once."""


class Worker(Settings):
    """The process that routes, protects and sends."""

    processes: int = Field(default=1, ge=1, le=64)
    """How many of them ``serve`` runs on this machine."""
    silent_seconds: float = Field(default=30.0, ge=1.0)
    """A worker not heard of for so long is lost: others take up what it had."""
    cpu_threads: int = Field(default=0, ge=0)  # 0: torch's own choice
    stop_seconds: float = Field(default=20.0, gt=0)
    """How long a stop waits for work in hand; what is left is taken up again."""
    memory_bytes: int = Field(default=3 << 30, ge=5 << 28)
    """Of the process, models included. Batches of frames stay within half of it; an
    object one of whose frames needs more than all is held."""

    @property
    def frame_bytes(self) -> int:
        """What is left for one frame under work."""
        return self.memory_bytes - MODELS_BYTES

    @property
    def batch_bytes(self) -> int:
        """What is left for several frames under work."""
        return max(0, self.memory_bytes // 2 - MODELS_BYTES)
