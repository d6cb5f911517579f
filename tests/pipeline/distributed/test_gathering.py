"""Shards through the stages and a real Ray: WebDataset and Parquet, damaged images, memory, changes."""

import json
import secrets
import sys

import numpy as np
import pytest
from datafiles import encoded, random_pixels, write_parquet, write_webdataset
from killing import NO_PROXY, free_port, ray_node, wait_for
from project import ROOT, command, edit_params, settings_only

from flowvae.data.arrays import read_metadata

pytestmark = pytest.mark.slow
IMAGES = random_pixels(90, 8, 8, 3)
SHARDS = np.split(np.arange(90), 6)  # 15 images each


@pytest.fixture
def project(tmp_path):
    """A folder with only params.yaml and dvc.yaml, whose images are in shards."""
    folder = settings_only(tmp_path)
    choose(folder, {"uri": str(tmp_path / "shards"), "size": [8, 8]})
    return folder


def choose(project, shards, **changes):
    def edit(params):
        params["data"].update(name="shards", binarization="none", **changes)
        params["data"]["shards"].update(shards)
        params["model"]["likelihood"] = {"name": "discretized_logistic"}

    edit_params(project, edit)


def run(project, *stages, check=True, **changes):
    for stage in stages:
        ran = command(project, sys.executable, "-m", "pipeline", stage, check=check, PYTHONPATH=str(ROOT), **changes)
    return ran


def load(project, name):
    return np.load(project / f"data/prepared/{name}.npy")


def assert_prepared(project, expected):
    for split, positions in expected.items():
        assert np.array_equal(load(project, split), IMAGES[positions].transpose(0, 3, 1, 2)), split
    assert load(project, "test_labels").tolist() == [i % 7 for i in expected["test"]]


def webdataset(folder, names, positions=SHARDS):
    for name, shard in zip(names, positions, strict=True):
        samples = [(f"{i:05d}", {"png": encoded(IMAGES[i]), "cls": str(i % 7).encode()}) for i in shard]
        write_webdataset(folder / name, samples)


def hugging_face(folder, names):
    for name, shard in zip(names, SHARDS, strict=True):
        images = [{"bytes": encoded(IMAGES[i]), "path": f"{i}.png"} for i in shard]
        write_parquet(
            folder / name, {"image": images, "label": [int(i) % 7 for i in shard], "text": ["x"] * len(shard)}
        )


def raw_bytes(folder, names):
    for name, shard in zip(names, SHARDS, strict=True):
        columns = {"image": [IMAGES[i].tobytes() for i in shard], "shape": [[8, 8, 3]] * len(shard)}
        write_parquet(folder / name, columns | {"label": [int(i) % 7 for i in shard]})


@pytest.mark.parametrize(("write", "ending"), [(webdataset, "tar"), (hugging_face, "parquet"), (raw_bytes, "parquet")])
def test_shards_with_splits(project, tmp_path, write, ending):
    """In the order of the shards and of their rows."""
    names = (
        [f"train-{i}.{ending}" for i in range(3)] + [f"validation-0.{ending}"] + [f"test-{i}.{ending}" for i in (0, 1)]
    )
    write(tmp_path / "shards", names)
    ran = run(project, "fetch", "prepare")
    order = {"train": range(45), "valid": range(45, 60), "test": range(60, 90)}
    assert_prepared(project, {split: np.array(positions) for split, positions in order.items()})
    assert "split: by the names of the shards" in ran.stdout and "Traceback" not in ran.stderr
    metadata = read_metadata(project / "data/prepared")
    assert metadata.provenance.dataset == "shards shards" and metadata.provenance.banner is None
    assert not list((project / "checkpoints").iterdir())


def test_shards_without_splits_and_with_one_more(project, tmp_path):
    """An image's split follows from its content, so it keeps it when shards are added or renamed."""
    webdataset(tmp_path / "shards", [f"{i}.tar" for i in range(5)], SHARDS[:5])
    run(project, "fetch", "prepare")
    source = json.loads((project / "data/source.json").read_text())
    before = {split: set(map(bytes, load(project, split))) for split in ("train", "valid", "test")}
    assert sum(map(len, before.values())) == 75 and all(before.values())
    webdataset(tmp_path / "shards", ["00.tar"], SHARDS[5:])
    (tmp_path / "shards/3.tar").rename(tmp_path / "shards/a.tar")
    run(project, "fetch", "prepare")
    assert json.loads((project / "data/source.json").read_text()) != source
    after = {split: set(map(bytes, load(project, split))) for split in before}
    assert sum(map(len, after.values())) == 90 and all(after[split] >= before[split] for split in before)


def test_prepared_images_are_kept_without_their_shards(project, tmp_path):
    """As in a clone that cannot read the bucket, and pulled the arrays."""
    webdataset(tmp_path / "shards", [f"{i}.tar" for i in range(6)])
    run(project, "fetch", "prepare")
    before = (project / "data/source.json").read_bytes()
    (tmp_path / "shards").rename(tmp_path / "gone")
    assert "the arrays that were prepared are kept" in run(project, "fetch").stderr
    assert (project / "data/source.json").read_bytes() == before
    ran = run(project, "prepare", check=False)
    assert ran.returncode == 1 and f"data.shards.uri: {tmp_path / 'shards'}: cannot be read (" in ran.stderr


def test_damaged_images(project, tmp_path):
    samples = [(f"{i}", {"jpg": b"junk" if i % 30 == 7 else encoded(IMAGES[i], "jpeg")}) for i in range(90)]
    write_webdataset(tmp_path / "shards/0.tar", samples)
    run(project, "fetch")
    ran = run(project, "prepare", check=False)
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("prepare: "))
    assert ran.returncode == 1 and line.startswith("prepare: data.max_corrupt: 3 of 90 images cannot be read, ")
    assert len((project / "logs/prepare/corrupt.txt").read_text().splitlines()) == 3
    choose(project, {}, max_corrupt=0.1)
    ran = run(project, "prepare")  # from the images that are gathered
    metadata = read_metadata(project / "data/prepared")
    assert sum(metadata.counts.values()) == 87
    assert metadata.provenance.banner == "CORRUPT IMAGES SKIPPED: 3 of 90 images could not be read."
    assert metadata.provenance.corrupt == {"train": 0, "valid": 0, "test": 0, "unknown": 3}


def test_a_damaged_shard(project, tmp_path):
    webdataset(tmp_path / "shards", [f"{i}.tar" for i in range(6)])
    (tmp_path / "shards/2.tar").write_bytes(b"junk" * 1000)
    run(project, "fetch")
    ran = run(project, "prepare", check=False)
    lines = [line for line in ran.stderr.splitlines() if line.startswith("prepare: ")]
    assert ran.returncode == 1 and len(lines) == 1, ran.stderr
    assert lines[0].startswith(f"prepare: data.shards.uri: {tmp_path / 'shards'}: cannot be read (")
    assert not (project / "data/prepared").exists()


def test_on_a_cluster(project, tmp_path):
    """Of two nodes, to which the code of the driver is sent."""
    names = ("test-0", "test-1", "train-0", "train-1", "train-2", "val")
    webdataset(tmp_path / "shards", [f"{name}.tar" for name in names])
    (tmp_path / "token").write_text(secrets.token_hex(16))
    port = free_port()
    head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false")
    agent = f"--dashboard-agent-listen-port={free_port()}"
    with ray_node(tmp_path / "head", *head) as first:
        assert wait_for(lambda: "Ray runtime started" in (tmp_path / "head/output.txt").read_text(), first)
        with ray_node(tmp_path / "other", f"--address=127.0.0.1:{port}", agent) as second:
            assert wait_for(lambda: "Ray runtime started" in (tmp_path / "other/output.txt").read_text(), second)
            cluster = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")} | NO_PROXY
            run(project, "fetch", "prepare", RAY_ADDRESS=f"127.0.0.1:{port}", **cluster)
    assert np.array_equal(load(project, "test"), IMAGES[:30].transpose(0, 3, 1, 2))


GATHER = """
import re, sys
from pathlib import Path
from examples import data_config
from pipeline.distributed.shards import gather_shards

def anonymous_memory():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def on_progress(done, total):
    if done % 1000 == 0:
        seen.append(anonymous_memory())

seen = []
shards = {"uri": sys.argv[1], "size": [64, 64]}
gather_shards(data_config("shards", shards=shards), Path(sys.argv[2]), on_progress)
print(max(seen) - seen[0])
"""


def test_memory_does_not_grow_with_the_shards(tmp_path):
    """245 MB of decoded images: they are written as they come."""
    images = [encoded(random_pixels(64, 64, 3, seed=i)) for i in range(10)]
    for shard in range(20):
        samples = [(f"{i:05d}", {"png": images[i % 10]}) for i in range(1000)]
        write_webdataset(tmp_path / f"shards/{shard:02d}.tar", samples)
    path = f"{ROOT}:{ROOT / 'tests/helpers'}"
    ran = command(
        tmp_path, sys.executable, "-c", GATHER, str(tmp_path / "shards"), str(tmp_path / "out"), PYTHONPATH=path
    )
    images = np.load(tmp_path / "out/images.npy", mmap_mode="r")
    assert len(images) == 20_000 and np.array_equal(images[0], random_pixels(64, 64, 3).transpose(2, 0, 1))
    assert float(ran.stdout.splitlines()[-1]) < 100, ran.stdout  # MB
