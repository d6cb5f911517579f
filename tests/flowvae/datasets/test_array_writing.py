"""Images from Python: in any of the forms that researchers have, written in little memory, or not at all."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datafiles import pixels_of, random_pixels
from documents import code_block, read, section
from examples import data_config
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from flowvae.datasets import write_images
from flowvae.datasets.array_files import read_arrays

ROOT = Path(__file__).parents[3]
IMAGES = random_pixels(30, 3, 6, 4)
LABELS = np.arange(30) % 7
LEVELS = torch.from_numpy(IMAGES)


class Pairs(Dataset):
    """Images of Pillow with labels, as torchvision's data sets have."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, i):
        return Image.fromarray(IMAGES[i].transpose(1, 2, 0)), int(LABELS[i])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(LEVELS)


FORMS = {
    "an array": IMAGES,
    "channels last": IMAGES.transpose(0, 2, 3, 1),
    "a tensor": LEVELS,
    "64-bit integers": IMAGES.astype(np.int64),
    "numbers from 0 to 1": LEVELS / 255,
    "doubles": IMAGES / 255,
    "a Dataset of pairs": Pairs(),
    "a Subset": Subset(Pairs(), range(30)),
    "a TensorDataset": TensorDataset(LEVELS, torch.from_numpy(LABELS)),
    "an IterableDataset": Stream(),
    "a list": list(IMAGES),
    "rows": [{"image": image, "label": label} for image, label in zip(IMAGES, LABELS)],
    "zip": lambda: zip(IMAGES, LABELS),
}
WITH_LABELS = {"a Dataset of pairs", "a Subset", "a TensorDataset", "rows", "zip"}


def read_back(folder, shape):
    settings = {"path": str(folder), "shape": shape, "test_fraction": 0.2}
    return read_arrays(Path("unused"), data_config("arrays", arrays=settings))


@pytest.mark.parametrize("form", FORMS)
def test_images_in_every_form(tmp_path, form):
    shape = write_images(tmp_path / "new/arrays", train=images_in(form), test=images_in(form))
    assert shape == (3, 6, 4)
    assert np.array_equal(np.load(tmp_path / "new/arrays/train.npy"), IMAGES)
    dataset = read_back(tmp_path / "new/arrays", shape)
    assert np.array_equal(pixels_of(dataset.images["test"]), IMAGES)
    assert dataset.test_labels.tolist() == (LABELS.tolist() if form in WITH_LABELS else list(range(30)))
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"arrays"}


def images_in(form):
    return FORMS[form]() if callable(FORMS[form]) else FORMS[form]


def test_grey_images_and_bits(tmp_path):
    bits = IMAGES[:, 0] > 127
    assert write_images(tmp_path / "a", bits, valid=bits, test=bits[:, None]) == (1, 6, 4)
    for split in ("train", "valid", "test"):
        assert np.array_equal(np.load(tmp_path / f"a/{split}.npy"), 255 * bits[:, None].astype(np.uint8))
    unusual = [Image.fromarray(IMAGES[0, 0]).convert(mode) for mode in ("1", "L", "I")]
    assert write_images(tmp_path / "b", unusual) == (1, 6, 4)


def test_numbers_are_rounded_to_8_bits(tmp_path):
    write_images(tmp_path / "a", [np.array([[0.4, 0.6, 254.7]]) / 255])
    assert np.load(tmp_path / "a/images.npy").tolist() == [[[[0, 1, 255]]]]


def test_without_test_images_prepare_draws_them(tmp_path):
    shape = write_images(tmp_path / "a", Pairs())
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"images.npy", "labels.npy"}
    dataset = read_back(tmp_path / "a", shape)
    assert sum(map(len, dataset.images.values())) == 30 and set(dataset.test_labels) <= set(LABELS)


REFUSED = {
    "several sizes": ([IMAGES[0], IMAGES[0, :, 1:]], "expected images of one shape"),
    "grey and colour": ([IMAGES[0], IMAGES[0, 0]], "expected images of one shape"),
    "no images": ([], "expected images, got none"),
    "no data set": (3, "expected images in an array, a tensor, a data set or an iterable, got int"),
    "text": (["cat"], "image 0: expected shape"),
    "five channels": (np.zeros((2, 5, 6, 7)), "image 0: expected shape"),
    "large numbers": (IMAGES * 1.0, "expected integers from 0 to 255 or numbers from 0 to 1, got "),
    "large integers": (IMAGES.astype(np.int32) * 2, "expected integers from 0 to 255"),
    "negative": ([-(IMAGES[0] / 255)], "numbers from 0 to 1"),
    "not a number": ([np.full((2, 2), np.nan)], "numbers from 0 to 1"),
    "another key": ([{"img": IMAGES[0]}], "expected images under the key 'image', got keys 'img'"),
    "labels for some": ([(IMAGES[0], 1), (IMAGES[1],)], "a label for each of 2 images or for none, got 1"),
}


@pytest.mark.parametrize(("images", "says"), REFUSED.values(), ids=REFUSED)
def test_nothing_is_written_of_what_is_refused(tmp_path, images, says):
    for arguments in ((images,), (IMAGES, images)):
        with pytest.raises(ValueError, match=says) as caught:
            write_images(tmp_path / "a", *arguments)
        assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_splits_of_several_sizes(tmp_path):
    with pytest.raises(ValueError, match=r"expected images of one shape, got .'train': "):
        write_images(tmp_path / "a", IMAGES, IMAGES[:, :, 1:])
    with pytest.raises(ValueError, match="expected test images beside validation images"):
        write_images(tmp_path / "a", IMAGES, valid=IMAGES)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    write_images(tmp_path / "a", IMAGES)
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        write_images(tmp_path / "a", IMAGES[:3])
    assert len(np.load(tmp_path / "a/images.npy")) == 30


def test_keys_of_rows(tmp_path):
    rows = [{"img": Image.fromarray(IMAGES[0].transpose(1, 2, 0)), "fine_label": 3}] * 4
    write_images(tmp_path / "a", rows, test=rows, image_key="img", label_key="fine_label")
    assert np.load(tmp_path / "a/test_labels.npy").tolist() == [3] * 4


def test_data_sets_of_hugging_face(tmp_path):
    pytest.importorskip("datasets.arrow_dataset")  # `datasets` alone may be a folder of tests
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=7)})
    rows = {"image": [image.transpose(1, 2, 0) for image in IMAGES], "label": LABELS.tolist()}
    mapped = datasets.Dataset.from_dict(rows, features=features)
    shape = write_images(tmp_path / "a", train=mapped, test=mapped.to_iterable_dataset())
    assert np.array_equal(np.load(tmp_path / "a/train.npy"), IMAGES)
    assert np.array_equal(pixels_of(read_back(tmp_path / "a", shape).images["test"]), IMAGES)
    assert np.load(tmp_path / "a/test_labels.npy").tolist() == LABELS.tolist()


STREAM = """
import resource, sys
import numpy as np
from flowvae.datasets import write_images
write_images(sys.argv[1] + "/warm-up", (np.zeros((64, 64, 3), np.uint8) for _ in range(100)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_images(sys.argv[1] + "/a", (np.zeros((64, 64, 3), np.uint8) for _ in range(10_000)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_does_not_grow_with_the_images(tmp_path):
    """123 MB of images, of unknown number."""
    run = subprocess.run([sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 20 and len(np.load(tmp_path / "a/images.npy", mmap_mode="r")) == 10_000


def test_the_documented_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"training_set": Pairs(), "test_set": Pairs()}
    exec(code_block(section(read(ROOT / "docs/images.md"), "Use your own arrays")), names)
    assert names["shape"] == (3, 6, 4) and (tmp_path / "images/train.npy").is_file()
