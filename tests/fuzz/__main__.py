"""Fuzz the gateway: ``python -m tests.fuzz run``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.fuzz import campaign, driver
from tests.fuzz.campaign import Share

app = typer.Typer(add_completion=False, help=__doc__)
CONSOLE = Console()
Folder = Annotated[Path, typer.Option(help="What is made lies here.")]


@app.command()
def run(
    targets: Annotated[list[str] | None, typer.Argument(help="All, if none.")] = None,
    executions: Annotated[int, typer.Option(help="In total, at least.")] = 1_000_000,
    minutes: Annotated[float, typer.Option(help="In total, at most.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the chances.")] = 1,
    jobs: Annotated[int, typer.Option(help="Processes at once.")] = 1,
    out: Folder = Path("build/fuzz"),
    at_random: Annotated[bool, typer.Option(help="Without coverage.")] = False,
) -> None:
    """Fuzz entry points and print what each did; fails where something was found."""
    from tests.fuzz.targets import TARGETS

    guided = campaign.guided_here() and not at_random
    if not guided:
        CONSOLE.print(
            "atheris is not used: inputs are made at random, without coverage"
        )
    names = targets or list(TARGETS)
    seconds = minutes * 60
    planned = [
        (
            driver.Job(
                target=name,
                executions=int(executions * weight_of(name, names)) + 1,
                seconds=seconds,
                seed=seed,
                folder=out / name,
                guided=guided,
            ),
            TARGETS[name].kind,
        )
        for name in names
    ]
    shares = []
    for share in campaign.run_all(planned, jobs, CONSOLE.print):
        CONSOLE.print(_line(share))
        shares.append(share)
        campaign.write_shares(shares, out / "fuzz.json")
    CONSOLE.print(table_of(shares))
    raise typer.Exit(int(any(share.findings for share in shares)))


RATES = {
    "request": 350,
    "association": 15,
    "message": 250,
    "identifier": 150,
    "attributes": 150,
    "part10": 60,
    "dataset": 6,
    "pixels": 10,
    "protect": 2,
    "follow": 2,
    "jpeg": 6,
    "jpeg-ls": 6,
    "jpeg-2000": 8,
    "rle": 10,
    "record": 20,
    "envelope": 40,
    "enclosed": 2,
    "multipart": 6,
    "qido": 10,
    "site": 0.5,
    "condition": 2,
}
"""How the executions are shared out: by how fast an entry point is, and by how much
of what comes from outside enters there."""


def weight_of(name: str, names: list[str]) -> float:
    """Part of all executions that a target gets."""
    return RATES[name] / sum(RATES[each] for each in names)


@app.command()
def one(
    target: str,
    executions: Annotated[int, typer.Option()],
    seconds: Annotated[float, typer.Option()],
    seed: Annotated[int, typer.Option()],
    folder: Annotated[Path, typer.Option()],
    at_random: Annotated[bool, typer.Option()] = False,
) -> None:
    """Fuzz one target in this process."""
    driver.run(
        driver.Job(
            target=target,
            executions=executions,
            seconds=seconds,
            seed=seed,
            folder=folder,
            guided=not at_random,
        )
    )


@app.command()
def merge(
    target: str,
    folder: Annotated[Path, typer.Option()],
    longest: Annotated[int, typer.Option()],
) -> None:
    """Keep in ``merged`` what covers the corpus of a target, in this process."""
    driver.merge(target, folder, longest)


@app.command()
def keep(
    targets: Annotated[list[str] | None, typer.Argument(help="All, if none.")] = None,
    out: Folder = Path("build/fuzz"),
    most: Annotated[int, typer.Option(help="Inputs of a target.")] = 150,
    longest: Annotated[int, typer.Option(help="Octets of an input.")] = 4096,
) -> None:
    """Keep what covers the corpora of the last run in the repository."""
    from tests.fuzz.targets import TARGETS

    for name in targets or list(TARGETS):
        if (out / name / "corpus").exists():
            kept = campaign.keep_covering(out / name, name, longest, most)
            CONSOLE.print(f"{name}: {kept} inputs")


@app.command()
def minimize(
    targets: Annotated[list[str] | None, typer.Argument(help="All, if none.")] = None,
    out: Folder = Path("build/fuzz"),
) -> None:
    """Make the findings of the last run small and keep them in the repository."""
    from tests.fuzz.minimize import minimized
    from tests.fuzz.targets import TARGETS

    for name in targets or list(TARGETS):
        found = campaign.findings_of(out / name)
        enter = TARGETS[name].build() if found else None
        for one in found:
            data = (out / name / "findings" / f"{one['file']}.bin").read_bytes()
            if enter is not None and one["kind"] == "exception":
                data = minimized(enter, data)
            path = campaign.KEPT / name / f"{one['file']}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            CONSOLE.print(f"{name}: {one['kind']} {one['place']}, {len(data)} octets")


@app.command()
def record(out: Folder = Path("build/fuzz")) -> None:
    """Record associations of DCMTK anew, for `wire`."""
    from tests.fuzz import wire

    CONSOLE.print(", ".join(wire.record(out / "recording")))


@app.command()
def wire(
    associations: Annotated[int, typer.Option(help="At most.")] = 20_000,
    minutes: Annotated[float, typer.Option(help="At most.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the chances.")] = 1,
    peers: Annotated[int, typer.Option(help="Connections at once.")] = 4,
    out: Folder = Path("build/fuzz"),
) -> None:
    """Play changed recordings against a running receiver; fails on a fault."""
    import shutil

    from tests.fuzz.wire import fuzz_wire

    folder = out / "wire"
    shutil.rmtree(folder, ignore_errors=True)
    found = fuzz_wire(folder, associations, minutes * 60, seed, peers, CONSOLE.print)
    CONSOLE.print(f"{found.associations:,} associations, {found.pdus:,} PDUs")
    for fault in found.faults:
        CONSOLE.print(fault)
    raise typer.Exit(int(bool(found.faults)))


@app.command()
def page(
    outs: Annotated[list[Path], typer.Argument(help="Folders of `run` and `wire`.")],
    path: Annotated[Path, typer.Option()] = Path("docs/results/fuzz.md"),
) -> None:
    """Write the page of campaigns that were run."""
    from tests.fuzz.page import write_page

    campaigns, wired = [], None
    for out in outs:
        if (out / "fuzz.json").exists():
            shares = campaign.read_shares(out / "fuzz.json")
            guided = any(share.coverage for share in shares)
            kind = "Guided by coverage" if guided else "At random, from seeds"
            campaigns.append((kind, shares))
        if (out / "wire" / "wire.json").exists():
            wired = out / "wire" / "wire.json"
    write_page(campaigns, wired, path)


def _line(share: Share) -> str:
    fields = dataclasses.asdict(share)
    return ", ".join(f"{name} {number}" for name, number in fields.items())


def table_of(shares: list[Share]) -> Table:
    """Lay out what was done."""
    table = Table("target", "kind", "executions", "1/s", "coverage", "new")
    for title in ("findings", "crashes", "hangs", "growth MiB"):
        table.add_column(title, justify="right")
    for share in shares:
        table.add_row(
            share.target,
            share.kind,
            f"{share.executions:,}",
            f"{share.executions / max(share.seconds, 0.1):.0f}",
            str(share.coverage),
            str(share.new_coverage),
            str(share.findings),
            str(share.crashes),
            str(share.hangs),
            f"{share.growth_bytes / 2**20:.1f}",
        )
    table.add_section()
    table.add_row("all", "", f"{sum(share.executions for share in shares):,}")
    return table


if __name__ == "__main__":
    app()
