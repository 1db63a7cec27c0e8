"""Folders of images, local tables and Hub ids through `datasets`."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from timm_asap.data import LazySplit, TensorSplit, load_dataset
from timm_asap.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)


def pixels(height, width, *channels, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, *channels), dtype=dtype)


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def class_folders(root, size=(40, 40, 3), per_class=6):
    for name in ("cat", "dog"):
        for number in range(per_class):
            save(pixels(*size, seed=number), root / name / f"{number}.png")
    return root


def table(count=12, size=40, **columns):
    images = [Image.fromarray(pixels(size, size, 3, seed=seed)) for seed in range(count)]
    columns = columns or {"label": [row % 2 for row in range(count)]}
    return datasets.Dataset.from_dict({"image": images, **columns}).cast_column("image", datasets.Image())


def with_class_names(rows, key="label", names=("cat", "dog")):
    return rows.cast_column(key, datasets.ClassLabel(names=list(names)))


def parquet_folder(root, **splits):
    """Splits as Parquet files, as a data set on the Hub lays them out."""
    for name, rows in splits.items():
        (root / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return str(root)


# folders of images


def test_class_folders_of_small_images_come_into_memory(tmp_path):
    data = load_dataset("imagefolder", class_folders(tmp_path / "pets"))

    assert isinstance(data.train, TensorSplit)
    assert data.label_names == ("cat", "dog")
    assert data.image_size == (3, 40, 40)
    assert (len(data.train), len(data.test), data.test_name) == (9, 3, "held-out fifth, seed 0")
    wanted = {torch.from_numpy(pixels(40, 40, 3, seed=seed)).permute(2, 0, 1) for seed in range(6)}
    for image in data.train.images:
        assert any(torch.equal(image, original) for original in wanted)
    assert "pets" in data.source
    assert str(tmp_path) not in data.source


def test_train_and_test_folders_are_the_splits(tmp_path):
    class_folders(tmp_path / "train", per_class=4)
    class_folders(tmp_path / "test", per_class=2)
    data = load_dataset("imagefolder", tmp_path)
    assert (len(data.train), len(data.test), data.test_name) == (8, 4, "test")


def test_grey_images_keep_one_channel_at_every_bit_depth(tmp_path):
    class_folders(tmp_path, size=(40, 40))
    sixteen = pixels(40, 40, dtype=np.uint16)
    for number in range(3):
        save(sixteen, tmp_path / "cat" / f"16_{number}.png")
    data = load_dataset("imagefolder", tmp_path)
    assert data.image_size == (1, 40, 40)
    assert len(data.mean) == len(data.std) == 1
    scaled = torch.from_numpy(np.round(sixteen / 257).astype(np.uint8))
    assert any(torch.equal(image[0], scaled) for image in data.train.images)


def test_one_colored_image_makes_all_rgb_and_alpha_shows_white(tmp_path):
    class_folders(tmp_path, size=(40, 40))
    clear = np.zeros((40, 40, 4), np.uint8)
    for number in range(5):
        save(clear, tmp_path / "cat" / f"rgba_{number}.png")
    data = load_dataset("imagefolder", tmp_path)
    assert data.image_size == (3, 40, 40)
    assert any((image == 255).all() for image in data.train.images)
    assert not any((image == 0).all() for image in data.train.images)


def test_mixed_small_sizes_take_the_commonest(tmp_path):
    class_folders(tmp_path)
    save(pixels(50, 33, 3), tmp_path / "cat" / "odd.png")
    assert load_dataset("imagefolder", tmp_path).image_size == (3, 40, 40)


def test_one_large_image_leaves_all_on_disk(tmp_path):
    class_folders(tmp_path)
    large = pixels(48, 65)
    for name in ("cat", "dog"):
        for number in range(3):
            save(large, tmp_path / name / f"large_{number}.png")

    data = load_dataset("imagefolder", tmp_path)

    assert isinstance(data.train, LazySplit)
    assert data.image_size == (3, 224, 224)
    assert data.mean == IMAGENET_MEAN
    assert len(data.train) + len(data.test) == 18
    assert data.train.labels.dtype == torch.int64
    samples = [data.train[index] for index in range(len(data.train))]
    assert [label for _, label in samples] == data.train.labels.tolist()
    assert {image.mode for image, _ in samples} == {"RGB"}
    grey_as_rgb = np.repeat(large[..., None], 3, axis=2)
    assert any(np.array_equal(np.asarray(image), grey_as_rgb) for image, _ in samples)


def test_a_corrupt_image_is_named(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "dog" / "broken.png").write_bytes(b"no image at all")
    with pytest.raises(UserError, match=r"cannot read \S*broken\.png: not an image"):
        load_dataset("imagefolder", tmp_path)


def test_a_folder_without_class_folders(tmp_path):
    save(pixels(40, 40, 3), tmp_path / "1.png")
    with pytest.raises(UserError, match="no class subfolders: expected one folder of images per class"):
        load_dataset("imagefolder", tmp_path)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(UserError, match=r"holds no images: expected one folder of images per class$"):
        load_dataset("imagefolder", tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "all.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"holds no images: .*, it holds 1 \.(txt|zip), 1 \.(txt|zip)$"):
        load_dataset("imagefolder", tmp_path)


def test_imagefolder_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="imagefolder needs --data-dir"):
        load_dataset("imagefolder")
    with pytest.raises(UserError, match="nowhere is no folder"):
        load_dataset("imagefolder", tmp_path / "nowhere")


def test_too_few_images_per_class(tmp_path):
    class_folders(tmp_path, per_class=1)
    with pytest.raises(UserError, match="cannot be held out"):
        load_dataset("imagefolder", tmp_path)


# tables, as the Hub has them


def test_a_parquet_folder_loads_like_a_hub_data_set(tmp_path):
    rows = with_class_names(table())
    path = parquet_folder(tmp_path / "pets", train=rows, test=rows.select(range(4)))
    data = load_dataset(path)
    assert data.label_names == ("cat", "dog")
    assert data.test_name == "test"
    assert data.train.labels.tolist() == [0, 1] * 6
    assert torch.equal(data.train.images[3], torch.from_numpy(pixels(40, 40, 3, seed=3)).permute(2, 0, 1))
    assert "pets" in data.source


def test_a_saved_data_set_loads_too(tmp_path):
    datasets.DatasetDict(train=table(), validation=table(4)).save_to_disk(tmp_path / "splits")
    assert load_dataset(str(tmp_path / "splits")).test_name == "validation"
    table().save_to_disk(tmp_path / "one")
    assert load_dataset(str(tmp_path / "one")).test_name == "held-out fifth, seed 0"


def test_columns_are_found_by_their_type(tmp_path):
    rows = with_class_names(table().rename_columns({"image": "photo", "label": "animal"}), "animal")
    rows = rows.add_column("id", list(range(12)))
    assert load_dataset(parquet_folder(tmp_path, train=rows)).label_names == ("cat", "dog")


def test_of_several_label_columns_the_one_called_label(tmp_path):
    rows = table(label=[0, 1] * 6, coarse=[0] * 12)
    rows = with_class_names(with_class_names(rows), "coarse", ["animal"])
    assert load_dataset(parquet_folder(tmp_path, train=rows)).label_names == ("cat", "dog")


def test_several_label_columns_and_none_called_label(tmp_path):
    rows = table(fine=[0, 1] * 6, coarse=[0] * 6 + [1] * 6)
    rows = with_class_names(with_class_names(rows, "fine"), "coarse", ["pet", "cattle"])
    path = parquet_folder(tmp_path, train=rows)
    with pytest.raises(UserError, match=r"several label columns among fine, coarse: name it with --label-key"):
        load_dataset(path)
    assert load_dataset(path, label_key="coarse").label_names == ("pet", "cattle")


def test_strings_and_numbers_are_labels_in_sorted_order(tmp_path):
    names = ["emu", "dog", "cat", "ant", "fly", "bee"]
    data = load_dataset(parquet_folder(tmp_path / "names", train=table(label=names * 2), test=table(label=names * 2)))
    assert data.label_names == ("ant", "bee", "cat", "dog", "emu", "fly")
    assert data.train.labels.tolist() == [4, 3, 2, 0, 5, 1] * 2
    by_number = parquet_folder(tmp_path / "numbers", train=table(label=[7, 3] * 6), test=table(2, label=[7, 3]))
    data = load_dataset(by_number)
    assert data.label_names == ("3", "7")
    assert data.test.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"score": [0.5] * 12}, {}, "no label column among image, score: name it with --label-key"),
        ({"score": [0.5] * 12}, {"label_key": "score"}, "a label is a ClassLabel, an integer or a string"),
        ({"label": [0, 1] * 6}, {"label_key": "labl"}, "--label-key: unknown column 'labl'.*image, label"),
        ({"label": [0, 1] * 6}, {"image_key": "img"}, "--image-key: unknown column 'img'"),
        ({"label": [0, 1] * 6}, {"image_key": "label"}, "column 'label' holds no images but .*int64"),
        ({"label": [0, 1] * 6}, {"train_split": "trian"}, "--train-split: unknown split 'trian'"),
        ({"label": [0, 1] * 6}, {"test_split": "test"}, "--test-split: unknown split 'test'.*train"),
        ({"label": [0, None] * 6}, {}, "row 1 of column 'label', split 'train' has no label"),
    ],
)
def test_columns_and_splits_that_are_not_there(tmp_path, columns, options, message):
    path = parquet_folder(tmp_path, train=table(**columns))
    with pytest.raises(UserError, match=message):
        load_dataset(path, **options)


def test_a_table_without_images(tmp_path):
    path = parquet_folder(tmp_path, train=table().remove_columns("image"))
    with pytest.raises(UserError, match="no image column among label: name it with --image-key"):
        load_dataset(path)


def test_a_test_label_that_training_never_saw(tmp_path):
    path = parquet_folder(tmp_path, train=table(), test=table(2, label=[0, 2]))
    with pytest.raises(UserError, match="row 1 of column 'label', split 'test' has the label 2: expected one of"):
        load_dataset(path)


def test_secret_test_labels_leave_the_validation_split(tmp_path):
    rows = table()
    secret = table(2, label=[-1, -1])
    data = load_dataset(parquet_folder(tmp_path, train=rows, validation=rows.select(range(4)), test=secret))
    assert (data.test_name, len(data.test)) == ("validation", 4)


def test_a_test_split_without_labels(tmp_path):
    datasets.DatasetDict(train=table(), test=table().remove_columns("label")).save_to_disk(tmp_path)
    assert load_dataset(str(tmp_path)).test_name == "held-out fifth, seed 0"
    with pytest.raises(UserError, match="the split 'test' has no column 'label': it has image"):
        load_dataset(str(tmp_path), test_split="test")


def test_splits_can_be_named(tmp_path):
    rows = table()
    path = parquet_folder(tmp_path, train=rows, validation=rows.select(range(4)), test=rows.select(range(2)))
    data = load_dataset(path, train_split="validation", test_split="train")
    assert (len(data.train), len(data.test), data.test_name) == (4, 12, "train")


def test_the_same_split_twice(tmp_path):
    path = parquet_folder(tmp_path, train=table(), test=table())
    with pytest.raises(UserError, match="'test' cannot be trained and measured on at once"):
        load_dataset(path, train_split="test", test_split="test")
    assert load_dataset(path, train_split="test").test_name == "held-out fifth, seed 0"


def test_no_split_called_train(tmp_path):
    datasets.DatasetDict(a=table(), b=table()).save_to_disk(tmp_path)
    with pytest.raises(UserError, match="no split is called train among a, b: name one with --train-split"):
        load_dataset(str(tmp_path))
    assert len(load_dataset(str(tmp_path), train_split="a", test_split="b").test) == 12


def test_an_empty_split(tmp_path):
    path = parquet_folder(tmp_path, train=table(), test=table().select([]))
    with pytest.raises(UserError, match=r"cannot load data set .*no data"):
        load_dataset(path)


def test_a_damaged_parquet_file(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR")
    with pytest.raises(UserError, match=r"cannot load data set \S+: .*Parquet") as caught:
        load_dataset(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_damage_that_shows_only_in_the_rows(tmp_path):
    path = parquet_folder(tmp_path, train=table())
    file = next(tmp_path.rglob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[4:2000] = bytes(1996)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot load data set \S+: (?!An error occurred while generating)"):
        load_dataset(path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder \S+nowhere"):
        load_dataset(str(tmp_path / "nowhere"))


def test_a_hub_data_set_out_of_reach():
    with pytest.raises(UserError, match="cannot reach the Hugging Face Hub for data set 'nobody/nothing'"):
        load_dataset("nobody/nothing")
