"""``miad-gateway models``: list, train and measure the engine's networks."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from engine.models.card import ModelCard
    from engine.models.training import EpochReport

app = typer.Typer(no_args_is_help=True, help="List, train and measure the networks.")

DataOption = Annotated[
    Path,
    typer.Option(help="Folder with train/CLASS/*.jpg and test/CLASS/*.jpg."),
]
LabelledOption = Annotated[
    Path,
    typer.Option(
        help="Folder with [train|test/]CLASS/*.jpg, a CSV with file,label[,group]"
        "[,split], or the folder of Messidor, ISIC 2019 or BTMRI as published."
    ),
]
LayoutOption = Annotated[
    str,
    typer.Option(help="auto, folders, csv, isic2019, messidor or btmri."),
]
TestShareOption = Annotated[
    float,
    typer.Option(
        help="Hold out this share of the groups of each class where the data have "
        "no test split; 0.25 is the paper's 3:1."
    ),
]
OutOption = Annotated[Path, typer.Option(help="Directory for the weights and card.")]
InitOption = Annotated[
    Path | None, typer.Option(help="Weights to start from (.safetensors, .pth).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any training parameter, e.g. batch=16 or augmentation.mixup=0.2.",
    ),
]
NoteOption = Annotated[str, typer.Option(help="The training data, for the card.")]
LicenceOption = Annotated[str, typer.Option(help="Of the weights, for the card.")]


@app.command("list")
def list_models(
    directory: Annotated[
        Path | None,
        typer.Option(help="An ensemble of your own instead of the packaged models."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the packaged ensembles and removers, or those of a directory."""
    with _errors():
        cards = _cards(directory)
    if json:
        typer.echo(jsonlib.dumps({k: c.to_json() for k, c in cards.items()}))
        return
    table = Table("model", "kind", "architecture", "input px", "test accuracy", "MB")
    for key, card in cards.items():
        size = _weights_megabytes(directory, key)
        table.add_row(
            key,
            card.family,
            card.architecture,
            str(card.input_size),
            _quality(card),
            f"{size:.1f}",
        )
    Console().print(table)


@app.command("families")
def families(json: JsonOption = False) -> None:
    """List the six families of the paper: its networks, and small members."""
    from engine.models.families import PRESETS

    if json:
        typer.echo(jsonlib.dumps([dataclasses.asdict(p) for p in PRESETS]))
        return
    table = Table("--arch", "family", "architecture", "input px")
    for preset in PRESETS:
        table.add_row(
            preset.key, preset.family, preset.architecture, str(preset.input_size)
        )
    Console().print(table)


@app.command("train")
def train(  # noqa: PLR0913 - the options of a typer command are its arguments
    *,
    data: LabelledOption,
    arch: Annotated[
        str,
        typer.Option(
            help="timm architecture, e.g. resnet18, or one of `models families`, "
            "e.g. paper:resnet50."
        ),
    ],
    out: OutOption,
    input_size: Annotated[
        int | None,
        typer.Option(help="Side the network sees, px; default: its family's, or 128."),
    ] = None,
    layout: LayoutOption = "auto",
    test_share: TestShareOption = 0.0,
    name: Annotated[str, typer.Option(help="Of the model; default: --arch.")] = "",
    family: Annotated[str, typer.Option(help="Kind of network, for the card.")] = "",
    init: InitOption = None,
    settings: SetOption = None,
    data_note: NoteOption = "",
    licence: LicenceOption = "",
    json: JsonOption = False,
) -> None:
    """Train a timm network on labelled images; an interrupted run goes on."""
    from engine.models.evaluate import evaluate_card
    from engine.models.families import params_for
    from engine.models.settings import apply_settings
    from engine.models.training import source_of, train_classifier

    with _errors(), _progress() as bars:
        params = dataclasses.replace(
            params_for(arch, name=name, family=family, input_size=input_size),
            layout=layout,
            test_share=test_share,
            data=data_note,
            licence=licence,
        )
        params = apply_settings(params, settings or [])
        card = train_classifier(
            data,
            params,
            out,
            initial=init,
            report=_epoch_reporter(bars),
            progress=_reporter(bars, "reading images"),
        )
        source = source_of(data, params)
        if source.has_test:
            card_file = out / f"{card.name}.json"
            card = evaluate_card(card_file, source, _reporter(bars, "measuring"))
    _print_card(card, out, json=json)


@app.command("train-remover")
def train_remover_command(  # noqa: PLR0913 - as above
    *,
    data: DataOption,
    out: OutOption,
    arch: Annotated[str, typer.Option(help="wdnet or splitnet.")] = "wdnet",
    paper: Annotated[
        bool, typer.Option("--paper", help="Published size and training; needs a GPU.")
    ] = False,
    init: InitOption = None,
    settings: SetOption = None,
    data_note: NoteOption = "",
    licence: LicenceOption = "",
    json: JsonOption = False,
) -> None:
    """Train a watermark remover on random marks; an interrupted run goes on."""
    from dataclasses import replace

    from engine.models.settings import apply_settings
    from engine.removal.measure import split_samples
    from engine.removal.recipe import RemoverParams, paper_params
    from engine.removal.training import train_remover

    with _errors(), _progress() as bars:
        params = RemoverParams(architecture=arch)
        if paper:
            params = paper_params(arch, len(split_samples(data, "train")))
        params = replace(params, data=data_note, licence=licence)
        steps = _reporter(bars, "training")
        card = train_remover(
            data,
            apply_settings(params, settings or []),
            out,
            initial=init,
            report=lambda done, total, _loss: steps(done, total),
            progress=_reporter(bars, "reading images"),
        )
    _print_card(card, out, json=json)


@app.command("evaluate-remover")
def evaluate_remover(
    remover: Annotated[Path, typer.Argument(help="A remover's card or directory.")],
    data: DataOption,
    *,
    side: Annotated[int, typer.Option(help="Of the images, px.")] = 224,
    seed: Annotated[int, typer.Option(help="Of the marks.")] = 1,
    json: JsonOption = False,
) -> None:
    """Measure a remover: one random mark on each test image, before and after."""
    from engine.models.dataset import load_images
    from engine.removal.measure import measure, split_samples
    from engine.removal.remover import load_remover

    with _errors(), _progress() as bars:
        network = load_remover(remover)
        hosts = load_images(split_samples(data, "test"), side).pixels
        measured = measure(
            network, hosts, seed=seed, progress=_reporter(bars, "measuring")
        )
    if json:
        typer.echo(jsonlib.dumps({"remover": network.name, **measured}))
        return
    table = Table("measure", network.name)
    for key, value in measured.items():
        table.add_row(key, f"{value:g}")
    Console().print(table)


@app.command("evaluate")
def evaluate(  # noqa: PLR0913 - as above
    model: Annotated[
        Path, typer.Argument(help="A model card, or the directory of an ensemble.")
    ],
    *,
    data: LabelledOption,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    layout: LayoutOption = "auto",
    test_share: TestShareOption = 0.0,
    seed: Annotated[int, typer.Option(help="Of the training that held out.")] = 2023,
    json: JsonOption = False,
) -> None:
    """Measure a classifier, or an ensemble (Eq. 12), on labelled images."""
    from engine.models.classifier import load_classifier
    from engine.models.ensemble import load_ensemble
    from engine.models.evaluate import accuracy_of, confusion
    from engine.models.source import Source

    with _errors(), _progress() as bars:
        judge = load_ensemble(model) if model.is_dir() else load_classifier(model)
        source = Source(path=data, layout=layout, test_share=test_share, seed=seed)
        table = confusion(judge, source, split, _reporter(bars, "measuring"))
    accuracy = accuracy_of(table)
    result = {
        "model": judge.name,
        "labels": list(judge.labels),
        "correct": accuracy.correct,
        "total": accuracy.total,
        "accuracy": accuracy.value,
        "wilson_95": list(accuracy.interval),
        "confusion": table.tolist(),
    }
    if json:
        typer.echo(jsonlib.dumps(result))
    else:
        _print_confusion(judge.name, judge.labels, table.tolist())
        low, high = accuracy.interval
        Console().print(
            f"{accuracy.correct} of {accuracy.total} right: {accuracy.value:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%})"
        )


def _cards(directory: Path | None) -> dict[str, ModelCard]:
    from engine.errors import ModelError
    from engine.models.card import read_card
    from engine.models.ensemble import packaged_ensembles
    from engine.removal.remover import packaged_removers

    if directory is not None:
        folders = {directory.name: directory}
    else:
        folders = packaged_ensembles() | packaged_removers()
    files = {
        f"{name}/{file.stem}": file
        for name, folder in folders.items()
        for file in sorted(folder.glob("*.json"))
    }
    if not files:
        raise ModelError(f"{directory or 'the package'}: no model cards (*.json)")
    return {key: read_card(file)[1] for key, file in files.items()}


def _weights_megabytes(directory: Path | None, key: str) -> float:
    from engine.models.ensemble import packaged_ensembles
    from engine.removal.remover import packaged_removers

    folder, stem = key.split("/")
    if directory is None:
        directory = (packaged_ensembles() | packaged_removers())[folder]
    return (directory / f"{stem}.safetensors").stat().st_size / 1e6


def _quality(card: ModelCard) -> str:
    if card.accuracy is not None:
        low, high = card.accuracy.interval
        return (
            f"{card.accuracy.value:.1%} ({low:.1%} to {high:.1%}, "
            f"n={card.accuracy.total})"
        )
    before, after = (card.measures.get(f"psnr_{w}") for w in ("before", "after"))
    if before is None or after is None:
        return "not measured"
    return f"{before:.1f} dB with the mark, {after:.1f} dB cleaned"


def _print_card(card: ModelCard, out: Path, *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps(card.to_json()))
    else:
        Console().print(f"{out / card.name}.safetensors: {_quality(card)}")


def _print_confusion(
    name: str, labels: tuple[str, ...], table: list[list[int]]
) -> None:
    grid = Table("true \\ predicted", *labels, title=name)
    for label, row in zip(labels, table, strict=True):
        grid.add_row(label, *(str(count) for count in row))
    Console().print(grid)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn an engine error into one clear line and exit code 1."""
    from engine.errors import EngineError

    try:
        yield
    except (EngineError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", soft_wrap=True)
        raise typer.Exit(1) from error


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _reporter(bars: Progress, title: str) -> Callable[[int, int], None]:
    """Give a callback that starts its bar when first called."""
    started: dict[str, Any] = {}

    def report(done: int, total: int) -> None:
        if not started:
            started["task"] = bars.add_task(title, total=total)
        bars.update(started["task"], completed=done, total=total)

    return report


def _epoch_reporter(bars: Progress) -> Callable[[EpochReport], None]:
    count = _reporter(bars, "training")

    def report(result: EpochReport) -> None:
        count(result.epoch, result.epochs)
        bars.console.print(
            f"epoch {result.epoch}: loss {result.loss:.3f}, held-out accuracy "
            f"{result.accuracy:.1%} (best {result.best:.1%}), {result.seconds:.0f} s"
        )

    return report
