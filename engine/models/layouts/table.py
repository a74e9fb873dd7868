"""Any data set as a table: a CSV with the columns ``file,label[,group][,split]``.

Paths are relative to the CSV. A group (a patient, a lesion) never stands on both
sides of a split; without one every file is its own. ``split`` is ``train`` or
``test``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.models.samples import DatasetError, Listing, Row, number_labels

_SPLITS: Final = ("train", "test")


def recognises(data: Path) -> bool:
    """Whether `data` is a CSV file."""
    return data.suffix.lower() == ".csv" and data.is_file()


def read(data: Path) -> dict[str, Listing]:
    """List by split, or only under ``""`` without a column ``split``.

    Raises
    ------
    DatasetError
        If a column or a file is missing, or a line is not complete; it names
        the line.
    """
    rows = [_row(data, line, values) for line, values in read_lines(data)]
    _refuse_repetition(data, rows)
    _refuse_divided_groups(data, rows)
    return number_labels(rows, data)


def read_lines(
    table: Path, needed: tuple[str, ...] = ("file", "label")
) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a CSV with their numbers, header names in lower case.

    Parameters
    ----------
    table
        UTF-8, comma-separated, with a header.
    needed
        Columns, lower case, that must be there.

    Raises
    ------
    DatasetError
        If a column is missing, a line has another number of fields than the
        header, or the file is not a text.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in needed if name not in header]
            if missing:
                raise DatasetError(
                    f"{table}: column(s) {', '.join(missing)} missing; the first line "
                    f"must name the columns {', '.join(needed)}"
                )
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise DatasetError(
                        f"{table}, line {reader.line_num}: {len(fields)} fields where "
                        f"the header names {len(header)}"
                    )
                values = (field.strip() for field in fields)
                yield reader.line_num, dict(zip(header, values, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table}: not readable as CSV ({error})") from error


def _row(table: Path, line: int, values: dict[str, str]) -> Row:
    file, label, split = values["file"], values["label"], values.get("split", "")
    if not file or not label:
        raise DatasetError(
            f"{table}, line {line}: the {'file' if not file else 'label'} is empty"
        )
    path = table.parent / file
    if not path.is_file():
        raise DatasetError(
            f"{table}, line {line}: no such file {file} (looked for {path})"
        )
    if "split" in values and split not in _SPLITS:
        raise DatasetError(
            f"{table}, line {line}: split {split!r}; must be train or test"
        )
    return Row(path=path, label=label, group=values.get("group") or file, split=split)


def _refuse_repetition(table: Path, rows: list[Row]) -> None:
    seen: set[Path] = set()
    for row in rows:
        if row.path in seen:
            raise DatasetError(f"{table}: {row.path.name} is listed twice")
        seen.add(row.path)


def _refuse_divided_groups(table: Path, rows: list[Row]) -> None:
    split_of: dict[str, str] = {}
    for row in rows:
        if split_of.setdefault(row.group, row.split) != row.split:
            raise DatasetError(
                f"{table}: group {row.group!r} is in train and in test; one patient's "
                "images belong on one side"
            )
