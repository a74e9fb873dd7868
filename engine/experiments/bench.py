"""What a measurement works with: models, logo and one image prepared once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from engine.errors import InvalidParameter
from engine.models.ensemble import Ensemble, combine, load_ensemble
from engine.params import DeltaParams
from engine.protection.protector import Protector
from engine.protection.seeds import generator
from engine.protection.values import Given
from engine.removal.remover import load_remover
from engine.watermark.logo import load_logo
from engine.watermark.working import working_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from engine.experiments.images import Sample
    from engine.params import ProtectParams, SearchParams
    from engine.protection.values import Prepared
    from engine.removal.remover import Remover
    from engine.watermark.logo import Logo

ALL: Final = "all"
"""Sources: the whole ensemble."""

ONLY: Final = "only:"
"""Prefix of sources of one member, whose name follows."""

WITHOUT: Final = "without:"
"""Prefix of sources without the member whose name follows."""

_BATCH: Final = 32
"""Pictures judged at once."""

_TINY: Final = 1e-9
"""Stands for a probability that was rounded to 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What is measured, as values that another process can be given.

    Attributes
    ----------
    data
        Folder with one folder per class.
    ensemble
        Directory of the ensemble.
    removers
        Directories of the removers.
    params
        Parameters of protection; their seed orders the images too.
    device
        Where the models lie.
    """

    data: Path
    ensemble: Path
    removers: tuple[Path, ...]
    params: ProtectParams
    device: str = "cpu"

    def bench(self) -> Bench:
        """Load models and logo.

        Raises
        ------
        ModelError
            A model is missing or damaged.
        """
        return Bench(
            ensemble=load_ensemble(self.ensemble, self.device),
            removers=[load_remover(path, self.device) for path in self.removers],
            logo=load_logo(),
            params=self.params,
            device=torch.device(self.device),
        )

    def fingerprint(self) -> str:
        """Digest of models, logo and parameters: what records depend on."""
        digest = hashlib.sha256(json.dumps(asdict(self.params)).encode())
        digest.update(load_logo().sha256.encode())
        for folder in (self.ensemble, *self.removers):
            for card in sorted(folder.glob("*.json")):
                digest.update(str(json.loads(card.read_bytes())["sha256"]).encode())
        return digest.hexdigest()


class Bench:
    """Models, logo and parameters of a measurement, loaded.

    Parameters
    ----------
    ensemble
        All members.
    removers
        Networks δ is made against and pictures are put through; unique names.
    logo
        The logo.
    params
        Parameters of the product; rows change what they are about.
    device
        Where the models lie.
    """

    def __init__(
        self,
        *,
        ensemble: Ensemble,
        removers: Sequence[Remover],
        logo: Logo,
        params: ProtectParams,
        device: torch.device,
    ) -> None:
        self.ensemble = ensemble
        self.removers = {remover.name: remover for remover in removers}
        if len(self.removers) != len(removers):
            raise InvalidParameter(
                f"removers {[r.name for r in removers]}: their names must be unique"
            )
        self.params = params
        self.device = device
        self._sources = {ALL: ensemble}
        self._product = Protector(
            ensemble=ensemble,
            objective="diagnosis",
            removers=removers,
            logo=logo,
            params=params,
            device=device,
        )

    def sources(self, name: str) -> Ensemble:
        """Models a mark is searched on.

        Parameters
        ----------
        name
            `ALL`, or `ONLY` or `WITHOUT` plus the name of a member.

        Raises
        ------
        InvalidParameter
            No such member.
        """
        if name not in self._sources:
            self._sources[name] = self._part(name)
        return self._sources[name]

    def _part(self, name: str) -> Ensemble:
        member = name.partition(":")[2]
        if member not in self.ensemble.names:
            raise InvalidParameter(
                f"sources {name!r}: no member of that name in "
                f"{', '.join(self.ensemble.names)}"
            )
        if name.startswith(WITHOUT):
            return self.ensemble.without(member)
        (one,) = [m for m in self.ensemble.members if m.name == member]
        return Ensemble(member, [one]).to(self.device).eval()

    def protector(
        self,
        sources: str = ALL,
        *,
        search: SearchParams | None = None,
        delta: DeltaParams | None = None,
        removers: Sequence[str] | None = None,
    ) -> Protector:
        """Make the product's protector, but for what is given.

        Parameters
        ----------
        sources
            As in `sources`.
        search, delta
            Instead of the product's.
        removers
            Names of those δ is made against; all by default.
        """
        names = self.removers if removers is None else removers
        return self._product.variant(
            ensemble=self.sources(sources),
            removers=[self.removers[name] for name in names],
            search=search,
            delta=delta,
        )

    def shown(self, sample: Sample, stored: NDArray[np.int32]) -> torch.Tensor:
        """Show stored values of a sample as models see them, ``(3, G, G)``."""
        return working_image(stored, sample.frame.rendering, self.device)

    def judge(self, pictures: Sequence[torch.Tensor]) -> list[Said]:
        """Ask every member about pictures ``(3, G, G)`` in [0, 1], once."""
        said: list[Said] = []
        for i in range(0, len(pictures), _BATCH):
            with torch.inference_mode():
                batch = torch.stack(list(pictures[i : i + _BATCH]))
                rows = self.ensemble.member_logits(batch).double().softmax(-1).cpu()
            said.extend(self._said(rows[:, n]) for n in range(len(batch)))
        return said

    def _said(self, rows: torch.Tensor) -> Said:
        return {
            name: tuple(round(p, 6) for p in row)
            for name, row in zip(self.ensemble.names, rows.tolist(), strict=True)
        }

    def mixed(self, said: Said, sources: str = ALL) -> tuple[float, ...]:
        """Eq. 12 over some sources, of what every member said; 6 digits."""
        ensemble = self.sources(sources)
        rows = torch.tensor([said[name] for name in ensemble.names]).double()
        # Logits up to a constant per member, which no way of combining sees.
        logits = rows.clamp(min=_TINY).log()[:, None]
        said_together = combine(logits, ensemble.weights.to(logits), ensemble.combine)
        return tuple(round(p, 6) for p in said_together[0].exp().tolist())


Said = dict[str, tuple[float, ...]]
"""Class probabilities by name of the member."""


def predicted(probabilities: Sequence[float]) -> int:
    """Class of the largest probability."""
    return int(np.argmax(probabilities))


class Scene:
    """One image, prepared once for all rows with the same sources and δ.

    Parameters
    ----------
    bench
        The models.
    sample
        The image; every member classifies it correctly, so that its label is
        the consensus label of any sources.
    """

    def __init__(self, bench: Bench, sample: Sample) -> None:
        self.bench = bench
        self.sample = sample
        self.seed = sample.name.encode()
        self._prepared: dict[str, Prepared] = {}

    def plain(self, sources: str = ALL) -> Prepared:
        """Prepare the image without δ; lesions as the sources alone see them."""
        key = f"{sources} without δ"
        if key not in self._prepared:
            none = DeltaParams(kind="none", lesion_guard=False)
            protector = self.bench.protector(sources, delta=none)
            self._prepared[key] = protector.prepare(self.sample.frame, seed=self.seed)
        return self._prepared[key]

    def product(self, sources: str = ALL) -> Prepared:
        """Prepare the image with the product's δ, made once for all sources.

        Lesions are those the sources alone see; δ is kept off them.
        """
        if sources not in self._prepared:
            delta = None if sources == ALL else self.product(ALL).delta
            self._prepared[sources] = self.bench.protector(sources).prepare(
                self.sample.frame, seed=self.seed, given=Given(delta=delta)
            )
        return self._prepared[sources]

    def crafted(self, delta: DeltaParams, removers: Sequence[str]) -> Prepared:
        """Prepare the image with another δ, against some removers."""
        protector = self.bench.protector(delta=delta, removers=removers)
        return protector.prepare(
            self.sample.frame,
            seed=self.seed,
            given=Given(lesions=self.plain().lesions),
        )

    def generator(self, purpose: str) -> np.random.Generator:
        """Draws that depend on seed, image and purpose only."""
        return generator(self.bench.params.seed, purpose, self.seed)
