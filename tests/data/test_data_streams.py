"""Streams: each sample once per pass, shuffled by seed and epoch, shared by processes, resumed bit-equally."""

import json

import pytest
import torch

from tests.support.image_files import number_of, parquet_shards, web_shards
from timm_asap.data import AugmentConfig, StreamSplit, build_loader, load_dataset, set_epoch
from timm_asap.data.config import PixelConfig
from timm_asap.errors import UserError

AUGMENT = AugmentConfig(crop_padding=4, horizontal_flip=True, re_prob=0.5)
NOTHING = AugmentConfig()
COUNTS = (23, 17, 20)
TOTAL = sum(COUNTS)
# what Python 3.12 and later say of every loader with worker processes
FORK_WARNING = "ignore:This process .* is multi-threaded:DeprecationWarning"


@pytest.fixture(scope="module", params=["parquet", "webdataset"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    write = parquet_shards if kind == "parquet" else web_shards
    folder = write(tmp_path_factory.mktemp(kind), COUNTS)
    return write(folder, (7,), split="test")


@pytest.fixture
def data(kind, folder):
    return load_dataset(kind, folder, streaming=True, num_classes=TOTAL, shuffle_buffer=16)


def stream_loader(data, batch_size=4, training=True, augment=AUGMENT, steps=TOTAL // 4, **options):
    split = data.train if training else data.test
    return build_loader(
        split, data, batch_size, training=training, augment=augment, steps_per_epoch=steps, seed=3, **options
    )


def labels_of(loader):
    return torch.cat([labels for _, labels in loader]).tolist()


def assert_same(batches, expected):
    batches, expected = list(batches), list(expected)
    assert len(batches) == len(expected)
    for (images, labels), (expected_images, expected_labels) in zip(batches, expected, strict=True):
        assert torch.equal(labels, expected_labels)
        assert torch.equal(images, expected_images)


# what a stream is


def test_a_stream_of_small_images_is_opened_and_not_counted(data):
    assert isinstance(data.train, StreamSplit)
    assert (data.image_size, data.num_classes, data.test_name) == ((3, 32, 32), TOTAL, "test")
    assert data.train.len_or_none is None
    assert data.class_counts(data.train) is None
    assert len(stream_loader(data)) == TOTAL // 4


def test_a_pass_gives_every_sample_once_with_its_label(data):
    loader = stream_loader(data, augment=NOTHING, pixels=PixelConfig(mean=(0.0,) * 3, std=(1.0,) * 3))
    seen = []
    for images, labels in loader:
        assert images.shape == (4, 3, 32, 32)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert [number_of(image) for image in images] == labels.tolist()
        seen += labels.tolist()
    assert sorted(seen) == list(range(TOTAL))
    assert seen != sorted(seen)


def test_more_steps_than_a_pass_begin_another_in_another_order(data):
    seen = labels_of(stream_loader(data, steps=TOTAL // 2))
    assert sorted(seen[:TOTAL]) == sorted(seen[TOTAL:]) == list(range(TOTAL))
    assert seen[:TOTAL] != seen[TOTAL:]


def test_the_buffer_bounds_how_far_samples_move(kind, folder):
    near = load_dataset(kind, folder, streaming=True, num_classes=TOTAL, shuffle_buffer=1)
    seen = labels_of(stream_loader(near))
    starts = {0: range(23), 23: range(23, 40), 40: range(40, 60)}
    order = [seen[0]]
    while len(order) < 3:
        order.append(seen[sum(len(starts[start]) for start in order)])
    assert seen == [number for start in order for number in starts[start]]
    far = load_dataset(kind, folder, streaming=True, num_classes=TOTAL, shuffle_buffer=1000)
    moved = labels_of(stream_loader(far))
    # a block of the whole pass: shards mix
    assert len({number // 20 for number in moved[:15]}) == 3


def test_seed_and_epoch_decide_the_order_and_the_augmentation(data):
    loader = stream_loader(data)
    first = list(loader)
    assert_same(loader, first)
    set_epoch(loader, 1)
    second = list(loader)
    assert labels_of(first) != labels_of(second)
    set_epoch(loader, 0)
    assert_same(loader, first)
    looks = [
        {int(n): image for images, labels in e for image, n in zip(images, labels, strict=True)}
        for e in (first, second)
    ]
    assert sum(torch.equal(looks[0][n], looks[1][n]) for n in looks[0]) < TOTAL // 4


def test_the_batch_size_changes_no_sample(data):
    few, many = (stream_loader(data, size, steps=TOTAL // size) for size in (4, 12))
    few, many = (torch.cat([images for images, _ in loader]) for loader in (few, many))
    assert torch.equal(few, many)


def test_the_global_generators_stay(data):
    before = torch.get_rng_state()
    list(stream_loader(data))
    assert torch.equal(torch.get_rng_state(), before)


# in the middle of an epoch


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_stream_goes_on_where_it_stopped(data, processes):
    """Two processes share rows (three shards do not divide by two), three processes share shards."""
    share = {"num_processes": processes, "process_index": processes - 1, "steps": 11}
    whole = stream_loader(data, **share)
    set_epoch(whole, 2)
    expected, states = [], [whole.state_dict()]
    for batch in whole:
        expected.append(batch)
        states.append(json.loads(json.dumps(whole.state_dict())))
    assert (states[-1]["rows"]["pass"] > 0) == (processes > 1)
    for step in (0, 1, 2, 5, 10, 11):
        resumed = stream_loader(data, **share)
        resumed.load_state_dict(states[step])
        set_epoch(resumed, 2)
        assert_same(resumed, expected[step:])
    # and the epoch after it is a whole one
    set_epoch(resumed, 3)
    set_epoch(whole, 3)
    assert_same(resumed, whole)


@pytest.mark.filterwarnings(FORK_WARNING)
def test_workers_change_nothing_nor_does_what_they_fetch_ahead(data):
    expected = list(stream_loader(data))
    loader = stream_loader(data, num_workers=2)
    assert_same(loader, expected)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    assert state["step"] == 3
    resumed = stream_loader(data)
    resumed.load_state_dict(state)
    assert_same(resumed, expected[3:])
    loader.load_state_dict(state)  # the same loader, its workers still busy with the pass that was left
    assert_same(loader, expected[3:])
    assert_same(loader, expected)


def test_another_epoch_forgets_the_state(data):
    loader = stream_loader(data)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    resumed = stream_loader(data)
    resumed.load_state_dict(state)
    set_epoch(resumed, 5)
    assert len(list(resumed)) == len(loader)


def test_a_state_of_other_processes_or_batches_is_refused(data):
    state = stream_loader(data).state_dict()
    with pytest.raises(UserError, match="only with the same --batch-size: it stopped with 4 images per process, now 8"):
        stream_loader(data, 8).load_state_dict(state)
    with pytest.raises(UserError, match="same number of processes: it stopped with 1 processes, now 2"):
        stream_loader(data, num_processes=2).load_state_dict(state)


# several processes


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_pass_and_take_equally_many_steps(data, processes):
    seen = []
    steps = 17 // 4 if processes == 3 else 28 // 4
    for process in range(processes):
        loader = stream_loader(data, steps=steps, num_processes=processes, process_index=process)
        labels = labels_of(loader)
        assert len(labels) == 4 * steps
        seen += labels
    assert len(set(seen)) == len(seen)


def test_a_process_with_less_begins_another_pass(data):
    lengths = {len(list(stream_loader(data, steps=8, num_processes=3, process_index=p))) for p in range(3)}
    assert lengths == {8}


def test_processes_augment_differently(data):
    looks = []
    for process in (0, 1):
        loader = stream_loader(data, num_processes=2, process_index=process)
        numbers = [sample.number for batch, _ in loader.source.batches(0, 0, None) for sample in batch]
        looks.append(set(numbers))
    assert not looks[0] & looks[1]


def test_a_process_without_a_sample(tmp_path):
    folder = parquet_shards(parquet_shards(tmp_path, (1,)), (1,), split="test")
    data = load_dataset("parquet", folder, streaming=True, num_classes=1)
    loader = stream_loader(data, num_processes=2, process_index=1)
    with pytest.raises(UserError, match="holds no image for process 1 of 2: use fewer processes"):
        list(loader)


# evaluation


@pytest.mark.parametrize(("processes", "batch_size"), [(1, 3), (2, 2), (2, 3), (3, 4)])
def test_a_test_pass_counts_each_sample_once_in_equally_large_batches(data, processes, batch_size):
    per_process = [
        [
            labels.tolist()
            for _, labels in stream_loader(data, batch_size, training=False, num_processes=processes, process_index=p)
        ]
        for p in range(processes)
    ]
    assert len({tuple(map(len, batches)) for batches in per_process}) == 1
    seen = [label for together in zip(*per_process, strict=True) for batch in together for label in batch]
    assert [label for label in seen if label >= 0] == list(range(7))
    if processes == 1:
        assert -1 not in seen


def test_a_stream_from_the_hub(hub, tmp_path):
    parquet_shards(parquet_shards(tmp_path, (9, 8), classes=2), (5,), split="test", classes=2)
    hub.add_repo("you/pets", {f"data/{file.name}": file.read_bytes() for file in tmp_path.iterdir()}, kind="datasets")
    data = load_dataset("you/pets", streaming=True)
    assert data.label_names == ("class 0", "class 1")
    loader = stream_loader(data, steps=4)
    expected = list(loader)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    assert len(json.dumps(state)) < 1000
    resumed = stream_loader(data, steps=4)
    resumed.load_state_dict(state)
    assert_same(resumed, expected[1:])
    assert labels_of(stream_loader(data, training=False)) == [0, 1, 0, 1, 0]


def test_a_test_loader_of_unknown_length(data):
    loader = stream_loader(data, training=False, steps=None)
    assert loader.len_or_none is None
    with pytest.raises(TypeError, match="not known"):
        len(loader)


# bad input


def test_a_stream_without_steps(data):
    with pytest.raises(UserError, match=r"the length of \w+, split 'train' is not known: give --steps-per-epoch"):
        stream_loader(data, steps=None)


def test_a_stream_without_the_number_of_classes(kind, folder):
    with pytest.raises(
        UserError, match="classes of a stream without class names cannot be counted: give --num-classes"
    ):
        load_dataset(kind, folder, streaming=True)


def test_a_label_beyond_the_number_of_classes(kind, folder):
    data = load_dataset(kind, folder, streaming=True, num_classes=5)
    with pytest.raises(
        UserError, match=r"a row of \w+, split 'train' has the label \d+: expected one of the 5 classes"
    ):
        list(stream_loader(data))


def test_nothing_is_held_out_of_a_stream(kind, folder, tmp_path):
    with pytest.raises(UserError, match="--val-share: nothing can be held out of a stream"):
        load_dataset(kind, folder, streaming=True, num_classes=TOTAL, val_share=0.1)
    only_train = (parquet_shards if kind == "parquet" else web_shards)(tmp_path, (4,))
    with pytest.raises(UserError, match="has no test split and none can be held out of a stream"):
        load_dataset(kind, only_train, streaming=True, num_classes=TOTAL)


def test_repeats_need_images_at_random(data):
    with pytest.raises(UserError, match="repeated augmentation needs images at random"):
        stream_loader(data, augment=AugmentConfig(repeats=3))


def test_bundled_data_are_no_streams():
    with pytest.raises(UserError, match="data set 'digits' takes no --streaming"):
        load_dataset("digits", streaming=True)
    with pytest.raises(UserError, match="data set 'digits' takes no --num-classes"):
        load_dataset("digits", num_classes=10)
