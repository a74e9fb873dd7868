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
        CONSOLE.print("atheris is not used: inputs are made at random, without coverage")
    names = targets or list(TARGETS)
    seconds = minutes * 60 * jobs / len(names)
    planned = [
        (
            driver.Job(
                target=name,
                executions=-(-executions * weight_of(name, names) // 1000),
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
    "request": 8,
    "association": 3,
    "message": 5,
    "identifier": 5,
    "attributes": 8,
    "record": 6,
    "envelope": 6,
    "part10": 5,
    "site": 0.1,
    "protect": 0.3,
    "follow": 0.5,
    "enclosed": 0.5,
    "multipart": 2,
    "condition": 2,
}
"""How fast targets are, roughly: so the executions are shared out."""


def weight_of(name: str, names: list[str]) -> int:
    """Thousandths of all executions that a target gets; at least a share each."""
    whole = sum(RATES.get(each, 2) for each in names)
    return max(1, round(1000 * RATES.get(name, 2) / whole))


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
