"""Published layouts and tables: read, grouped, divided 3:1, refused by line."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xlwt
from PIL import Image

from engine.models.dataset import load_images, read_image
from engine.models.layouts import isic2019
from engine.models.samples import DatasetError, Listing
from engine.models.source import Source
from tests.engine.models_small import LABELS, write_pictures

MESSIDOR_HEADER = [
    "Image name",
    "Ophthalmologic department",
    "Retinopathy grade",
    "Risk of macular edema ",  # with this blank, as published
]


def picture(path: Path, level: int = 90) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), level, np.uint8)).save(path)
    return path.name


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def write_xls(path: Path, rows: Iterable[Iterable[object]]) -> None:
    book = xlwt.Workbook()
    sheet = book.add_sheet("Annotation")
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            sheet.write(i, j, value)
    book.save(str(path))


def write_messidor(root: Path, *, excel: bool = True, grade: object = 3) -> Path:
    for base in ("Base11", "Base12"):
        rows: list[list[object]] = [list(MESSIDOR_HEADER)]
        for i in range(4):
            name = picture(root / base / f"2005_{base}_{i}_PP.tif")
            rows.append([name, "Service Ophtalmologie Lariboisière", i, 0])
        rows[-1][2] = grade
        table = root / base / f"Annotation_{base}"
        if excel:
            write_xls(table.with_suffix(".xls"), rows)
        else:
            write_csv(table.with_suffix(".csv"), rows)
    return root


def write_isic(root: Path) -> Path:
    images = [("ISIC_1", "MEL", "L1"), ("ISIC_2_downsampled", "NV", "L1")]
    images += [("ISIC_3", "NV", ""), ("ISIC_4", "MEL", "L2")]
    for image, _, _ in images:
        picture(root / isic2019.FOLDER / f"{image}.jpg")
    hot = [
        [image, *(f"{float(name == label)}" for name in isic2019.CLASSES)]
        for image, label, _ in images
    ]
    write_csv(root / isic2019.TRUTH, [["image", *isic2019.CLASSES], *hot])
    metadata = [[image, "55.0", "back", lesion, "male"] for image, _, lesion in images]
    header = ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"]
    write_csv(root / isic2019.METADATA, [header, *metadata])
    return root


def write_mat(path: Path, label: int, patient: str, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # MATLAB writes its own header in front of the HDF5 file.
    with h5py.File(path, "w", userblock_size=512) as file:
        data = file.create_group("cjdata")
        data["label"] = np.array([[float(label)]])
        data["PID"] = np.array([[ord(c)] for c in patient], np.uint16)
        data["image"] = image.T.astype(np.int16)
        data["tumorBorder"] = np.zeros((1, 4))
        data["tumorMask"] = np.zeros(image.shape, np.uint8).T
    return path


def ramp() -> np.ndarray:
    """Dark left, bright below: tells a transposed image from a straight one."""
    return np.arange(20)[None, :] * 40 + np.arange(30)[:, None] * 100


def write_btmri(root: Path) -> Path:
    folder = root / "brainTumorDataPublic_1-766"
    for number in range(1, 13):
        label = 1 + (number - 1) // 4
        patient = f"{label}00{number % 2}"
        write_mat(folder / f"{number}.mat", label, patient, ramp())
    (root / "cvind.mat").write_bytes(b"folds of the publisher, another format")
    return root


WRITERS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], int]] = {
    "messidor": (write_messidor, ("grade_0", "grade_1", "grade_2", "grade_3"), 8),
    "isic2019": (write_isic, ("MEL", "NV"), 4),
    "btmri": (write_btmri, ("glioma", "meningioma", "pituitary_tumor"), 12),
}


def whole(root: Path, layout: str = "auto") -> Listing:
    return Source(path=root, layout=layout).split("train")


@pytest.mark.parametrize("layout", WRITERS)
def test_published_layouts_are_recognised_and_read(layout: str, tmp_path: Path) -> None:
    write, labels, count = WRITERS[layout]
    listing = whole(write(tmp_path))
    assert listing == whole(tmp_path, layout)
    assert listing.labels == labels
    assert len(listing.samples) == count
    assert load_images(listing.samples, 8).pixels.shape[0] == count
    assert not Source(path=tmp_path).has_test


@pytest.mark.parametrize("layout", WRITERS)
def test_another_layout_than_the_data_have_is_refused(
    layout: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=str(tmp_path)):
        whole(write_pictures(tmp_path, count=1), layout)


def test_messidor_grades_come_from_either_form_of_the_table(tmp_path: Path) -> None:
    excel = whole(write_messidor(tmp_path / "a"))
    text = whole(write_messidor(tmp_path / "b", excel=False))
    assert [s.label for s in excel.samples] == [0, 1, 2, 3] * 2
    assert [s.label for s in text.samples] == [0, 1, 2, 3] * 2
    assert [s.group for s in excel.samples] == [s.group for s in text.samples]
    both = write_messidor(tmp_path / "a", excel=False)
    assert len(whole(both).samples) == 8


@pytest.mark.parametrize("excel", [True, False])
def test_messidor_faults_name_the_line(excel: bool, tmp_path: Path) -> None:
    root = write_messidor(tmp_path, excel=excel, grade="severe")
    with pytest.raises(DatasetError, match=r"Base11\.\w+, line 5: retinopathy.*severe"):
        whole(root)
    (write_messidor(tmp_path, excel=excel) / "Base12" / "2005_Base12_1_PP.tif").unlink()
    with pytest.raises(DatasetError, match=r"Base12\.\w+, line 3: no image"):
        whole(root)


def test_messidor_table_that_is_no_table_is_refused(tmp_path: Path) -> None:
    write_messidor(tmp_path)
    table = tmp_path / "Base11" / "Annotation_Base11.xls"
    table.write_bytes(b"<html>not found</html>")
    with pytest.raises(DatasetError, match=r"Excel 97.*save it as"):
        whole(tmp_path)
    write_xls(table, [["Image name", "Grade"]])
    with pytest.raises(DatasetError, match=r"column\(s\) retinopathy grade missing"):
        whole(tmp_path)


def test_isic_lesions_are_the_groups(tmp_path: Path) -> None:
    listing = whole(write_isic(tmp_path))
    assert [s.group for s in listing.samples] == ["L1", "L1", "ISIC_3", "L2"]
    assert [listing.labels[s.label] for s in listing.samples] == [
        "MEL",
        "NV",
        "NV",
        "MEL",
    ]
    (tmp_path / isic2019.METADATA).unlink()
    assert whole(tmp_path).samples[1].group == "ISIC_2_downsampled"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ISIC_1,1,1,0,0,0,0,0,0,0", "line 2: 2 classes are 1"),
        ("ISIC_1,1,x,0,0,0,0,0,0,0", "line 2: could not convert"),
        ("ISIC_9,1,0,0,0,0,0,0,0,0", "line 2: no image"),
        ("ISIC_1,1,0", "line 2: 3 fields where the header names 10"),
    ],
)
def test_isic_faults_name_the_line(line: str, message: str, tmp_path: Path) -> None:
    header = ",".join(["image", *isic2019.CLASSES])
    (write_isic(tmp_path) / isic2019.TRUTH).write_text(f"{header}\n{line}\n")
    with pytest.raises(DatasetError, match=message):
        whole(tmp_path)


def test_btmri_patients_are_the_groups(tmp_path: Path) -> None:
    listing = whole(write_btmri(tmp_path))
    assert [s.path.stem for s in listing.samples] == [str(i) for i in range(1, 13)]
    assert [listing.labels[s.label] for s in listing.samples] == (
        ["meningioma"] * 4 + ["glioma"] * 4 + ["pituitary_tumor"] * 4
    )
    assert listing.samples[0].group == "1001"
    assert len({s.group for s in listing.samples}) == 6


def test_btmri_slices_stand_upright_and_fill_the_levels(tmp_path: Path) -> None:
    image = read_image(write_mat(tmp_path / "1.mat", 1, "7", ramp()))
    pixels = np.asarray(image)
    assert image.mode == "L"
    assert pixels.shape == (30, 20)
    assert (pixels.min(), pixels.max()) == (0, 255)
    rank = np.corrcoef(pixels.ravel(), ramp().ravel())[0, 1]
    assert rank > 0.999


def test_a_hot_pixel_does_not_darken_a_slice(tmp_path: Path) -> None:
    spoiled = ramp()
    spoiled[0, 0] = 30_000
    clean, hot = (
        np.asarray(read_image(write_mat(tmp_path / f"{i}.mat", 1, "7", image)))
        for i, image in enumerate((ramp(), spoiled))
    )
    assert np.abs(clean.astype(int) - hot)[1:].max() <= 4


def test_a_flat_slice_is_black(tmp_path: Path) -> None:
    flat = np.full((4, 4), 700)
    assert not np.asarray(read_image(write_mat(tmp_path / "1.mat", 1, "7", flat))).any()


def test_btmri_faults_name_the_file(tmp_path: Path) -> None:
    write_btmri(tmp_path)
    broken = tmp_path / "13.mat"
    write_mat(broken, 4, "1", ramp())
    with pytest.raises(DatasetError, match=r"13\.mat: cjdata/label 4 is not 1, 2 or 3"):
        whole(tmp_path)
    with h5py.File(broken, "w") as file:
        file["other"] = 1
    with pytest.raises(DatasetError, match=r"13\.mat: not a MATLAB v7\.3 file"):
        whole(tmp_path)
    broken.write_bytes(b"no HDF5")
    with pytest.raises(DatasetError, match=r"13\.mat: not a MATLAB v7\.3 file"):
        read_image(broken)
    write_mat(broken, 1, "1", np.zeros(3))
    with pytest.raises(DatasetError, match="not a matrix of finite"):
        read_image(broken)


def write_table(root: Path, lines: list[str]) -> Path:
    for name in ("a.png", "b.png", "sub/c.png", "d.png"):
        picture(root / name)
    table = root / "table.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def test_a_table_with_splits_and_groups(tmp_path: Path) -> None:
    table = write_table(
        tmp_path,
        [
            "Split,file,label,group",
            "train,a.png,ill,p1",
            "test,b.png,ill,p2",
            "",
            "train,sub/c.png,well,",
            "test,d.png,well,p3",
        ],
    )
    source = Source(path=table)
    assert source.has_test
    train, test = source.split("train"), source.split("test")
    assert train.labels == test.labels == ("ill", "well")
    assert [(s.path.name, s.label, s.group) for s in train.samples] == [
        ("a.png", 0, "p1"),
        ("c.png", 1, "sub/c.png"),
    ]
    assert [s.group for s in test.samples] == ["p2", "p3"]


def test_a_table_without_splits_is_all_for_training(tmp_path: Path) -> None:
    lines = ["file,label", "a.png,ill", "b.png,well"]
    source = Source(path=write_table(tmp_path, lines))
    assert len(source.split("train").samples) == 2
    with pytest.raises(DatasetError, match="no test split in it"):
        source.split("test")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,class", "a.png,ill"], r"column\(s\) label missing"),
        ([], r"column\(s\) file, label missing"),
        (["file,label", "a.png,ill", "z.png,ill"], r"line 3: no such file z\.png"),
        (["file,label", "a.png"], "line 2: 1 fields where the header names 2"),
        (["file,label", "a.png,"], "line 2: the label is empty"),
        (["file,label", ",ill"], "line 2: the file is empty"),
        (["file,label,split", "a.png,ill,val"], "line 2: split 'val'; must be"),
        (["file,label", "a.png,ill", "a.png,well"], "a.png is listed twice"),
        (["file,label", "a.png,ill", "b.png,ill"], r"1 class\(es\) in 2 image"),
        (
            ["file,label,group,split", "a.png,x,p,train", "b.png,y,p,test"],
            "group 'p' is in train and in test",
        ),
    ],
)
def test_faulty_tables_are_refused(
    lines: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        Source(path=write_table(tmp_path, lines)).split("train")


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(b"file,label\n\xff\xfe\x00")
    with pytest.raises(DatasetError, match="not readable as CSV"):
        whole(table)


def groups(listing: Listing) -> set[str]:
    return {sample.group for sample in listing.samples}


def test_three_to_one_by_group_and_class(tmp_path: Path) -> None:
    train = write_pictures(tmp_path, count=12) / "train"
    rows = [
        [f"train/{label}/{i:02}.png", label, f"{label}{i // 3}"]
        for label in LABELS
        for i in range(12)
    ]
    table = write_csv(tmp_path / "t.csv", [["file", "label", "group"], *rows])
    source = Source(path=table, test_share=0.25, seed=4)
    kept, held = source.split("train"), source.split("test")
    assert source.has_test
    assert (len(kept.samples), len(held.samples)) == (27, 9)
    assert not groups(kept) & groups(held)
    assert [s.label for s in held.samples] == [0] * 3 + [1] * 3 + [2] * 3
    again = Source(path=table, test_share=0.25, seed=4).split("test")
    other = Source(path=table, test_share=0.25, seed=5).split("test")
    assert again == held != other
    # A folder of classes, and one with a training split only.
    assert len(Source(path=train, test_share=0.25).split("test").samples) == 9
    shutil.rmtree(tmp_path / "test")
    assert len(Source(path=tmp_path, test_share=0.25).split("test").samples) == 9


def test_a_published_test_split_is_left_as_it_is(tmp_path: Path) -> None:
    data = write_pictures(tmp_path, count=4)
    source = Source(path=data, test_share=0.25)
    assert len(source.split("train").samples) == 12
    assert len(source.split("test").samples) == 12


def test_patients_of_btmri_stay_on_one_side(tmp_path: Path) -> None:
    source = Source(path=write_btmri(tmp_path), test_share=0.25)
    kept, held = source.split("train"), source.split("test")
    assert not groups(kept) & groups(held)
    assert torch.tensor([s.label for s in held.samples]).unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "kaggle"}, "must be one of auto, folders, csv"),
        ({"test_share": 1.0}, r"must lie in \[0, 1\)"),
    ],
)
def test_impossible_sources_are_refused(
    settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        Source(path=tmp_path, **settings)
