"""Engine protectors of a site: which ensemble and windows judge which object.

torch is loaded when the first protector is built, not before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from config.errors import ConfigurationError
from config.schema import Ensemble
from gateway.dicom.parse import BOUNDS, Bounds
from gateway.dicom.pixels import Reading
from gateway.route.conditions import Condition, ConditionError, compile_condition

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from config.schema import Protection
    from engine.protection.protector import Protector
    from gateway.route.keywords import Value

LABEL_FREE: Final = ""
"""Name under which the protector of all other objects is kept."""


@dataclass(frozen=True)
class _Choice:
    ensemble: Ensemble
    condition: Condition


@dataclass(frozen=True)
class _Presets:
    windows: tuple[tuple[float, float], ...]
    condition: Condition


class Protectors:
    """Builds protectors from settings, each once, and chooses among them.

    Parameters
    ----------
    protection
        The site's settings.
    bounds
        What data sets may be at most.

    Raises
    ------
    ConditionError
        A condition of an ensemble is wrong.
    """

    def __init__(self, protection: Protection, bounds: Bounds = BOUNDS) -> None:
        self._protection = protection
        self._bounds = bounds
        self._choices = tuple(
            _Choice(ensemble, compile_condition(ensemble.when))
            for ensemble in protection.ensembles
        )
        self._presets = tuple(
            _Presets(
                tuple((window.center, window.width) for window in presets.windows),
                compile_condition(presets.when),
            )
            for presets in protection.windows
        )
        self._built: dict[str, Protector] = {}

    @property
    def keywords(self) -> frozenset[str]:
        """DICOM keywords and association facts that the conditions read."""
        conditions = [choice.condition for choice in self._choices]
        conditions += [presets.condition for presets in self._presets]
        return frozenset().union(*(condition.keywords for condition in conditions))

    def reading(self, attributes: Mapping[str, Value]) -> Reading:
        """How an object is read: with the first presets whose condition holds.

        Parameters
        ----------
        attributes
            Values of `keywords`, as conditions see them.
        """
        settings = self._protection
        holding = (p for p in self._presets if _holds(p.condition, attributes))
        found = next(holding, None)
        return Reading(
            max_frames=settings.max_frames,
            windows=() if found is None else found.windows,
            max_own_windows=settings.max_own_windows,
            one_bit=settings.one_bit,
            split_frames=settings.split_frames,
            bounds=self._bounds,
        )

    def choose(self, attributes: Mapping[str, Value]) -> Protector:
        """Protector for an object.

        The first ensemble whose condition holds judges the diagnosis; where
        none does, or a condition cannot be decided for want of an attribute,
        the label-free objective protects the object all the same.

        Parameters
        ----------
        attributes
            Values of `keywords`, as conditions see them.

        Raises
        ------
        ModelError
            A model does not load.
        ConfigurationError
            There is no ensemble of that name.
        """
        for choice in self._choices:
            if _holds(choice.condition, attributes):
                return self._protector(choice.ensemble.name, choice.ensemble)
        return self._protector(LABEL_FREE, None)

    def _protector(self, name: str, ensemble: Ensemble | None) -> Protector:
        if name not in self._built:
            self._built[name] = _build(self._protection, ensemble)
        return self._built[name]


def judged_by(protection: Protection, name: str) -> Protection:
    """Change settings so that one ensemble judges every object.

    Parameters
    ----------
    protection
        The site's settings; an ensemble of that name keeps its directory.
    name
        Of a configured or packaged ensemble.
    """
    known = [ensemble for ensemble in protection.ensembles if ensemble.name == name]
    directory = known[0].directory if known else None
    always = Ensemble(name=name, when="true", directory=directory)
    return protection.model_copy(update={"ensembles": (always,)})


def _holds(condition: Condition, attributes: Mapping[str, Value]) -> bool:
    try:
        return condition.evaluate(attributes)
    except ConditionError:
        return False


def _build(protection: Protection, ensemble: Ensemble | None) -> Protector:
    from engine.models.ensemble import load_ensemble
    from engine.protection.protector import Protector
    from engine.removal.remover import load_remover, packaged_removers
    from engine.watermark.logo import load_logo

    device = device_of(0) if protection.device == "auto" else protection.device
    objective: Literal["diagnosis", "label-free"]
    objective = "label-free" if ensemble is None else "diagnosis"
    removers = [load_remover(path, device) for path in packaged_removers().values()]
    return Protector(
        ensemble=load_ensemble(_directory(ensemble), device),
        objective=objective,
        removers=removers,
        logo=load_logo(protection.logo),
        params=protection.params,
        device=device,
    )


def _directory(ensemble: Ensemble | None) -> Path:
    """Folder of the models; any packaged ensemble sees features without labels."""
    from engine.models.ensemble import packaged_ensembles

    packaged = packaged_ensembles()
    if ensemble is not None and ensemble.directory is not None:
        return ensemble.directory
    if ensemble is not None and ensemble.name in packaged:
        return packaged[ensemble.name]
    if ensemble is None and packaged:
        return next(iter(packaged.values()))
    known = ", ".join(packaged) or "none"
    name = "any" if ensemble is None else ensemble.name
    raise ConfigurationError(
        f"no packaged ensemble {name!r} (packaged: {known}); name a directory of "
        "trained models in protection.ensembles, see miad-gateway models train"
    )


def device_of(slot: int) -> str:
    """Return the device of one of a machine's workers: its GPUs in turn, or the CPU.

    Parameters
    ----------
    slot
        Which of them it is, from 0.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{slot % gpus}" if gpus else "cpu"
