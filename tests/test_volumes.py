"""Which volumes a folder or a datalist holds."""

import json

import pytest
from catalogue import fault

from monai_sr.errors import ImageError, InputMissingError
from monai_sr.io.volumes import datalist, find_volumes


def put(folder, *names, content: bytes = b""):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


DICOM = b"\0" * 128 + b"DICM"


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_images_are_found_at_any_depth_in_order(tmp_path):
    put(tmp_path, "b.nii.gz", "a.nii", "sub/deep/c.NII.GZ", "d.nrrd", "e.mha", "sub/f.mhd", "g.nhdr")
    put(tmp_path, "notes.txt", "table.csv", "f.raw", "sub/picture.png")
    assert names(find_volumes(tmp_path), tmp_path) == [
        "a.nii",
        "b.nii.gz",
        "d.nrrd",
        "e.mha",
        "g.nhdr",
        "sub/deep/c.NII.GZ",
        "sub/f.mhd",
    ]


def test_hidden_files_and_folders_are_no_volumes(tmp_path):
    put(tmp_path, "a.nii.gz", ".b.nii.gz", ".cache/c.nii.gz", "._a.nii.gz")
    assert names(find_volumes(tmp_path), tmp_path) == ["a.nii.gz"]


def test_a_folder_of_dicom_files_is_one_volume(tmp_path):
    put(tmp_path, "p1/s1/IM0", "p1/s1/IM1", "p1/s2/IM0", content=DICOM)
    put(tmp_path, "p2/scan.nii.gz")
    assert names(find_volumes(tmp_path), tmp_path) == ["p1/s1", "p1/s2", "p2/scan.nii.gz"]
    assert find_volumes(tmp_path / "p1" / "s1") == [tmp_path / "p1" / "s1"]


def test_a_hidden_file_does_not_hide_a_dicom_series(tmp_path):
    put(tmp_path, "s1/IM0", "s1/IM1", content=DICOM)
    put(tmp_path, "s1/.DS_Store", content=b"junk")
    assert names(find_volumes(tmp_path), tmp_path) == ["s1"]


def test_a_file_is_itself_whatever_its_name(tmp_path):
    put(tmp_path, "scan")
    assert find_volumes(tmp_path / "scan") == [tmp_path / "scan"]


@pytest.mark.parametrize("content", [(), ("notes.txt",)])
def test_a_folder_without_volumes_is_an_error_that_names_it(tmp_path, content):
    put(tmp_path, *content)
    with pytest.raises(InputMissingError, match="E-IO-MISSING") as caught:
        find_volumes(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputMissingError, match="nowhere"):
        find_volumes(tmp_path / "nowhere")


# ------------------------------------------------------------- datalist


def test_every_fifth_volume_of_a_folder_is_for_validation(tmp_path):
    put(tmp_path, *(f"{index:02}.nii.gz" for index in range(12)))
    training, validation = (datalist(tmp_path, section) for section in ("training", "validation"))
    assert [item["image"] for item in validation] == [str(tmp_path / f"{index:02}.nii.gz") for index in (4, 9)]
    assert len(training) == 10


@pytest.mark.parametrize("every", [2, 3, 5])
def test_training_and_validation_volumes_are_disjoint_and_complete(tmp_path, every):
    put(tmp_path, *(f"s{index}/{index}.nii" for index in range(11)))
    sections = [
        {item["image"] for item in datalist(tmp_path, section, validation_every=every)}
        for section in ("training", "validation")
    ]
    assert sections[0].isdisjoint(sections[1])
    assert sections[0] | sections[1] == {str(path) for path in find_volumes(tmp_path)}
    assert len(sections[1]) == 11 // every


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_last_of_a_few_volumes_is_for_validation_and_all_are_for_evaluation(count, tmp_path):
    put(tmp_path, *(f"{index}.nii.gz" for index in range(count)))
    sizes = [len(datalist(tmp_path, section)) for section in ("training", "validation", "evaluation")]
    assert sizes == [count - 1, 1, count]


def test_evaluation_takes_the_validation_of_a_datalist(tmp_path):
    entries = [{"image": f"{index}.nii.gz"} for index in range(3)]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries[:2], "validation": entries[2:]}))
    assert datalist(tmp_path / "list.json", "evaluation") == [{"image": str(tmp_path / "2.nii.gz")}]


@fault("W08", "E-DATALIST")
@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"training": [{"image": "a.nii.gz"}], "validation": []}', '{"training": []}', '{"validation": ["a"]}'],
)
def test_nothing_to_validate_on_is_an_error(content, tmp_path):
    (tmp_path / "list.json").write_text(content)
    put(tmp_path, "one/a.nii.gz")
    for source in (tmp_path / "list.json", tmp_path / "one"):
        with pytest.raises(ImageError) as caught:
            datalist(source, "validation")
        assert caught.value.code == "E-DATALIST" and caught.value.path == source


def test_relative_paths_of_a_datalist_count_from_its_folder(tmp_path, monkeypatch):
    put(tmp_path, "lists/in.nii.gz", "far/out.nii.gz")
    document = {
        "training": [{"image": "in.nii.gz"}, {"image": str(tmp_path / "far" / "out.nii.gz")}],
        "validation": [{"image": "../far/out.nii.gz"}],
    }
    path = tmp_path / "lists" / "datalist.json"
    path.write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path / "far")  # not where the datalist lies
    training, validation = (datalist(path, section) for section in ("training", "validation"))
    assert [item["image"] for item in training] == [
        str(tmp_path / "lists" / "in.nii.gz"),
        str(tmp_path / "far" / "out.nii.gz"),
    ]
    (only,) = validation
    assert (tmp_path / "lists" / only["image"]).resolve() == tmp_path / "far" / "out.nii.gz"


def test_a_datalist_found_by_a_relative_path_gives_absolute_ones(tmp_path, monkeypatch):
    put(tmp_path, "in.nii.gz")
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [{"image": "in.nii.gz"}], "validation": []}))
    monkeypatch.chdir(tmp_path)
    assert datalist("datalist.json", "training") == [{"image": str(tmp_path / "in.nii.gz")}]


def test_a_datalist_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputMissingError, match=r"E-IO-MISSING.*nowhere"):
        datalist(tmp_path / "nowhere.json", "training")
