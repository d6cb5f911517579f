"""Small data sets in exactly the file formats of the real ones: no mocks, but few and random images.

Checksums of whole files are compared with tables, of torchvision or of flowvae. The files written here have other
checksums, so `CHECKSUMS` defines how to change those tables; the comparison itself is not changed.
"""

import hashlib
import io
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from flowvae.datasets import caltech101_silhouettes, frey_faces, imagenet, omniglot_burda
from flowvae.datasets.decoder import decode


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def extract(archive, folder, members=None):
    """Extract a TarFile, with the safe filter where this release of Python has it (3.10.12, 3.11.4 and newer)."""
    archive.extractall(folder, members, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(arrays):
    """All images of RawArrays, shape (N, C, H, W)."""
    return np.concatenate(list(arrays.chunks(7)))


def decode_in_this_process(files):
    """All images of RawFiles, decoded one by one, shape (N, C, H, W)."""
    sources = [str(files.folder / name) for name in files.names]
    if files.spans is not None:
        content = files.folder.read_bytes()
        sources = [io.BytesIO(content[offset : offset + size]) for offset, size in files.spans]
    pixels = [np.frombuffer(decode(source, files.options), np.uint8) for source in sources]
    return np.stack(pixels).reshape(-1, *files.image_shape)


def write_idx(path, array):
    """Write MNIST's format: two zeros, the code for bytes, the number of axes, their lengths, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">i4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_idx_set(folder, prefixes, counts=(40, 20)):
    """Write images and labels for training and test. Returns: the images."""
    written = []
    for seed, (prefix, count) in enumerate(zip(prefixes, counts, strict=True)):
        pixels = random_pixels(count, 28, 28, seed=seed)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
        written.append(pixels)
    return written


def write_svhn(root, counts=(("train", 40), ("test", 20), ("extra", 30))):
    """Write MATLAB files with X, 32 x 32 x 3 x N, and y, where 10 stands for the digit 0.

    Returns:
        The images by split, shape (N, 3, 32, 32).
    """
    root.mkdir(parents=True, exist_ok=True)
    written = {}
    for seed, (split, count) in enumerate(counts):
        pixels = random_pixels(count, 3, 32, 32, seed=seed)
        labels = (1 + np.arange(count) % 10).astype(np.uint8)[:, None]
        content = {"X": np.asfortranarray(pixels.transpose(2, 3, 1, 0)), "y": labels}
        scipy.io.savemat(root / f"{split}_32x32.mat", content, do_compression=True)
        written[split] = pixels
    return written


def svhn_checksums(root):
    from torchvision.datasets import SVHN

    table = {split: list(entry) for split, entry in SVHN.split_list.items()}
    for entry in table.values():
        entry[2] = md5(root / entry[1])
    return SVHN, "split_list", table


def write_cifar10(root, each=8):
    """Write pickles of rows of 3072 bytes, red then green then blue.

    Returns:
        The images of training and test, shape (N, 3, 32, 32).
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    written = []
    for seed, name in enumerate(names):
        pixels = random_pixels(each, 3, 32, 32, seed=seed)
        content = {"data": pixels.reshape(each, -1), "labels": [i % 10 for i in range(each)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        written.append(pixels)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane"] * 10}, protocol=2))
    return np.concatenate(written[:-1]), written[-1]


def cifar10_checksums(root):
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    yield CIFAR10, "train_list", [[name, md5(folder / name)] for name, _ in CIFAR10.train_list]
    yield CIFAR10, "test_list", [[name, md5(folder / name)] for name, _ in CIFAR10.test_list]
    yield CIFAR10, "meta", CIFAR10.meta | {"md5": md5(folder / "batches.meta")}


def write_celeba(root, count=60):
    """Write JPEGs of 178 x 218 and the five lists. Returns: file names by split."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True, exist_ok=True)
    names = [f"{i:06d}.jpg" for i in range(1, count + 1)]
    for i, name in enumerate(names):
        face(i).save(folder / "img_align_celeba" / name, quality=90)
    parts = [0 if i < count * 2 // 3 else 1 if i < count * 5 // 6 else 2 for i in range(count)]
    lists = {
        "list_eval_partition.txt": (None, [[part] for part in parts]),
        "identity_CelebA.txt": (None, [[9000 + i // 2] for i in range(count)]),
        "list_bbox_celeba.txt": ("image_id x_1 y_1 width height", [[95, 71, 226, 313]] * count),
        "list_landmarks_align_celeba.txt": ("lefteye_x lefteye_y", [[69, 109]] * count),
        "list_attr_celeba.txt": ("Smiling Young", [[1, -1]] * count),
    }
    for name, (header, rows) in lists.items():
        head = [] if header is None else [str(count), header]
        lines = [f"{file} {' '.join(map(str, row))}" for file, row in zip(names, rows, strict=True)]
        (folder / name).write_text("\n".join(head + lines) + "\n")
    return {
        split: [n for n, part in zip(names, parts) if part == i] for i, split in enumerate(("train", "valid", "test"))
    }


def face(seed):
    """A smooth image, which JPEG changes little."""
    small = Image.fromarray(random_pixels(7, 6, 3, seed=seed))
    return small.resize((178, 218), Image.Resampling.BICUBIC)


def celeba_checksums(root):
    from torchvision.datasets import CelebA

    folder = root / CelebA.base_folder
    table = [
        (key, md5(folder / name) if (folder / name).is_file() else old, name) for key, old, name in CelebA.file_list
    ]
    return CelebA, "file_list", table


def write_omniglot(root):
    """Write 1-bit PNGs of 105 x 105, black ink on white, in folders of alphabets and characters, and the .zip files."""
    folder = root / "omniglot-py"
    for part, alphabets in (("images_background", ("Latin", "Greek")), ("images_evaluation", ("Tengwar", "Angelic"))):
        for a, alphabet in enumerate(alphabets):
            for character in ("character01", "character02"):
                for i in range(1, 6):
                    path = folder / part / alphabet / character / f"{a:04d}_{i:02d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pixels = np.full((105, 105), 255, np.uint8)
                    pixels[20:80, 10 * i : 10 * i + 8] = 0
                    Image.fromarray(pixels).convert("1").save(path)
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for path in sorted((folder / part).rglob("*.png")):
                archive.write(path, path.relative_to(folder))


def omniglot_checksums(root):
    from torchvision.datasets import Omniglot

    folder = root / Omniglot.folder
    return Omniglot, "zips_md5", {name: md5(folder / f"{name}.zip") for name in Omniglot.zips_md5}


def write_omniglot_burda(root, counts=(60, 20)):
    """Write chardata.mat: grey values in [0, 1], one image per column, each stored column by column.

    Returns:
        The images of training and test, shape (N, 1, 28, 28).
    """
    content, written = {}, []
    for seed, (prefix, count) in enumerate(zip(("", "test"), counts, strict=True)):
        pixels = random_pixels(count, 1, 28, 28, seed=seed)
        content[f"{prefix}data"] = pixels.swapaxes(2, 3).reshape(count, -1).T / 255
        content[f"{prefix}target"] = np.eye(50)[:, np.arange(count) % 50]
        content[f"{prefix}targetchar"] = np.arange(count)[None] % 55 + 1
        written.append(pixels)
    save_matlab(root / omniglot_burda.FILE.path, content)
    return written


def write_silhouettes(root, counts=(("train", 40), ("val", 20), ("test", 20))):
    """Write bits, 0 inside of a silhouette, one image per row, each stored column by column, and labels from 1 to 101.

    Returns:
        The images by split, 255 inside, shape (N, 1, 28, 28).
    """
    content, written = {"classnames": np.array(["accordion", "airplane"], dtype=object)[None]}, {}
    for seed, (split, count) in enumerate(counts):
        bits = random_pixels(count, 1, 28, 28, seed=seed) // 128
        content[f"{split}_data"] = (1 - bits).swapaxes(2, 3).reshape(count, -1)
        content[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 101 + 1)[:, None]
        written[split] = 255 * bits
    save_matlab(root / caltech101_silhouettes.FILE.path, content)
    return written


def write_frey_faces(root, count=200):
    """Write frey_rawface.mat: bytes, one frame per column. Returns: the frames, shape (N, 1, 28, 20)."""
    pixels = random_pixels(count, 1, 28, 20)
    save_matlab(root / frey_faces.FILE.path, {"ff": pixels.reshape(count, -1).T})
    return pixels


def save_matlab(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content, do_compression=True)


def write_tar(path, folder):
    """Write the files in a folder, and the folder itself, into an uncompressed tar archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        tar.add(folder, folder.name)


def write_imagenet(root, counts=(("train", 60), ("valid", 20)), size=32):
    """Write archives of PNGs in a folder of the same name. Returns: the images by archive, shape (N, 3, size, size)."""
    written = {}
    for seed, (part, count) in enumerate(counts):
        folder = root / "unpacked" / f"{part}_{size}x{size}"
        folder.mkdir(parents=True)
        written[part] = random_pixels(count, 3, size, size, seed=seed)
        for i, pixels in enumerate(written[part]):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{i:07d}.png")
        write_tar(root / "imagenet" / f"{folder.name}.tar", folder)
    shutil.rmtree(root / "unpacked")
    return written


def imagenet_checksums(root):
    files = (root / "imagenet").glob("*.tar")
    table = {path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}
    return imagenet, "ARCHIVES", imagenet.ARCHIVES | table


def encoded(pixels, format="png"):
    """The content of an image file with pixels of shape (H, W, C)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def write_webdataset(path, samples):
    """Write a shard of WebDataset: for each (key, {ending: content}) one file per ending, side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, files in samples:
            for ending, content in files.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def write_parquet(path, columns):
    """Write a shard of Parquet, in several groups of rows, as Hugging Face does."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=10)


def web_file_checksum(module, root):
    return module, "FILE", module.FILE._replace(md5=md5(root / module.FILE.path))


# Arguments of monkeypatch.setattr, after which the files in a folder are accepted as the real ones.
CHECKSUMS = {
    "svhn": lambda root: [svhn_checksums(root)],
    "cifar10": lambda root: list(cifar10_checksums(root)),
    "celeba": lambda root: [celeba_checksums(root)],
    "imagenet": lambda root: [imagenet_checksums(root)],
    "omniglot": lambda root: [omniglot_checksums(root)],
    "omniglot-burda": lambda root: [web_file_checksum(omniglot_burda, root)],
    "caltech101-silhouettes": lambda root: [web_file_checksum(caltech101_silhouettes, root)],
    "frey-faces": lambda root: [web_file_checksum(frey_faces, root)],
}
WRITERS = {
    "fashion-mnist": lambda root: write_idx_set(root / "FashionMNIST/raw", ("train", "t10k")),
    "kmnist": lambda root: write_idx_set(root / "KMNIST/raw", ("train", "t10k")),
    "emnist": lambda root: write_idx_set(root / "EMNIST/raw", ("emnist-balanced-train", "emnist-balanced-test")),
    "svhn": write_svhn,
    "cifar10": write_cifar10,
    "celeba": write_celeba,
    "imagenet": write_imagenet,
    "omniglot": write_omniglot,
    "omniglot-burda": write_omniglot_burda,
    "caltech101-silhouettes": write_silhouettes,
    "frey-faces": write_frey_faces,
}


def put_on_disk(name, root, monkeypatch):
    """Write a data set under a root, in its own format. Returns: the result of its writer."""
    written = WRITERS[name](Path(root))
    for target, attribute, table in CHECKSUMS.get(name, lambda root: [])(Path(root)):
        monkeypatch.setattr(target, attribute, table)
    return written
