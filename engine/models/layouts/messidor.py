"""Messidor: fundus photographs graded 0 to 3 for diabetic retinopathy.

As published (https://www.adcis.net/en/third-party/messidor/): folders ``Base11``
to ``Base34`` of 100 TIFF images, each with a table ``Annotation_Base11.xls`` whose
columns are "Image name", "Ophthalmologic department", "Retinopathy grade" and
"Risk of macular edema". The same table saved as ``.csv`` is read as well. No
patients are named, so every image is a group of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.models.layouts.table import read_lines
from engine.models.samples import DatasetError, Listing, Row, number_labels

_IMAGE: Final = "image name"
_GRADE: Final = "retinopathy grade"


def recognises(data: Path) -> bool:
    """Whether `data` has a folder with an annotation table in it."""
    return bool(_tables(data))


def read(data: Path) -> dict[str, Listing]:
    """List all under ``""``, with the classes ``grade_0`` to ``grade_3``.

    Raises
    ------
    DatasetError
        If there is no table, a table cannot be read, or an image it names is
        missing.
    """
    tables = _tables(data)
    if not tables:
        raise DatasetError(
            f"{data}: no folder Base11 to Base34 with its table Annotation_Base….xls"
        )
    rows = [_row(t, line, v) for t in tables for line, v in _lines(t)]
    return number_labels(rows, data)


def _tables(data: Path) -> list[Path]:
    found = [
        table
        for folder in sorted(data.glob("[Bb]ase*"))
        for table in sorted(folder.glob("[Aa]nnotation*"))
        if table.suffix.lower() in {".xls", ".csv"}
    ]
    # The same table in both forms is read once.
    return list({table.with_suffix(""): table for table in found}.values())


def _lines(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    if table.suffix.lower() == ".csv":
        return read_lines(table, (_IMAGE, _GRADE))
    return _excel_lines(table)


def _excel_lines(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    import xlrd  # only this layout needs it

    try:
        sheet = xlrd.open_workbook(table).sheet_by_index(0)
    except (OSError, xlrd.XLRDError, ValueError, AssertionError) as error:
        raise DatasetError(
            f"{table}: not readable as an Excel 97 table ({error}); save it as "
            f"{table.with_suffix('.csv').name}"
        ) from error
    header = [str(name).strip().lower() for name in sheet.row_values(0)]
    missing = [name for name in (_IMAGE, _GRADE) if name not in header]
    if missing:
        raise DatasetError(f"{table}: column(s) {', '.join(missing)} missing")
    for index in range(1, sheet.nrows):
        values = [str(value).strip() for value in sheet.row_values(index)]
        yield index + 1, dict(zip(header, values, strict=True))


def _row(table: Path, line: int, values: dict[str, str]) -> Row:
    grade = values[_GRADE].removesuffix(".0")
    if grade not in {"0", "1", "2", "3"}:
        raise DatasetError(
            f"{table}, line {line}: retinopathy grade {values[_GRADE]!r} is not 0 to 3"
        )
    path = table.parent / values[_IMAGE]
    if not values[_IMAGE] or not path.is_file():
        raise DatasetError(
            f"{table}, line {line}: no image {values[_IMAGE]!r} beside the table"
        )
    group = f"{table.parent.name}/{path.name}"
    return Row(path=path, label=f"grade_{grade}", group=group)
