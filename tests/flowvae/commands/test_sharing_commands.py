"""export writes a folder that others can load, with a true card; push uploads it, here to a server on this machine."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from documents import python_of
from huggingface_hub import ModelCardData
from PIL import Image
from ruamel.yaml import YAML

import flowvae
from flowvae.data.arrays import SPLITS, read_metadata
from flowvae.datasets.raw import RawArrays, RawDataset
from flowvae.datasets.writing import Preparation, write_arrays

FILES = {"README.md", "model.safetensors", "config.json", "samples.png"}
RESULTS = {"training.json", "metrics.json", "protocol.json", "provenance.json"}
METRICS = {
    **{"negative_elbo_nats": 11.25, "negative_elbo_stderr": 0.125, "nll_nats": 10.5, "nll_stderr": 0.25},
    **{"nll_bits_per_dim": 0.946753, "nll_bits_per_dim_stderr": 0.022542, "active_units": 2},
}
TOKEN = "hf_" + "Secret" * 6


@pytest.fixture
def project(models, tmp_path):
    """A project with a model, its scores, and the images behind them. Returns: the folder of the model."""
    bits = np.random.default_rng(0).integers(0, 2, (30, 1, 4, 4), np.uint8)
    images = {split: RawArrays.of(part) for split, part in zip(SPLITS, np.split(bits, 3), strict=True)}
    dataset = RawDataset(images, np.zeros(10, np.uint8), dataset="Dots", origin="here", split="thirds", processing=None)
    preparation = Preparation({"source": "a test"}, "static", 3, dict.fromkeys(SPLITS, 0), "Only 30 images!")
    prepared = tmp_path / "project/data/prepared"
    write_arrays(prepared, dataset, lambda chunks, split: chunks, preparation)
    arrays = {name: info.model_dump(mode="json") for name, info in read_metadata(prepared).arrays.items()}
    model = shutil.copytree(models / "bits", tmp_path / "project/models/planar-1-0")
    training = {
        **{"variant": "planar-1", "seed": 0, "epochs": 7},
        "training": {"batch_size": 8, "objective": "elbo", "learning_rate": 0.002, "patience": 0},
        "data": {split: arrays[split] for split in ("train", "valid")},
    }
    evaluation = {"num_elbo_samples": 5, "num_importance_samples": 200, "num_nll_images": 10, "seed": 1}
    protocol = training | {"data": training["data"] | {"test": arrays["test"]}, "evaluation": evaluation}
    metrics = METRICS | {"parameters": sum(each.numel() for each in flowvae.load(model).parameters())}
    write(model / "training.json", training)
    write(tmp_path / "project/metrics/planar-1-0.json", metrics)
    write(tmp_path / "project/metrics/protocol/planar-1-0.json", protocol)
    return model


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def card(folder):
    """The metadata and the text of a card."""
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return YAML(typ="safe", pure=True).load(head), text


def test_a_scored_model_of_a_project(project, call, tmp_path):
    out = tmp_path / "out"
    assert call("export", project, "-o", out, "--license", "mit") == [f"{out}: a model card, weights and config"]
    assert names(out) == FILES | RESULTS
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (project / name).read_bytes()
    metadata, text = card(out)
    assert metadata["tags"] == ["variational-autoencoder", "normalizing-flows", "pytorch", "planar"]
    assert (metadata["license"], metadata["library_name"]) == ("mit", "flowvae")
    for part in (
        "# planar-1-0\n",
        "> **Only 30 images!**",
        "a flow of 1 transformation (planar) in the posterior, of images of 1 x 4 x 4 (bits) and 2 latents",
        "Dots (here); static binarization (seed 3); 10 for training, 10 for validation, 10 for testing. Split: thirds.",
        "7 epochs of batches of 8, objective elbo, learning rate up to 0.002, training seed 0;",
        "| −ELBO | 11.25 ± 0.12 |  |\n| NLL | 10.50 ± 0.25 | 0.9468 ± 0.0225 |\n",
        "| active units (dimensions of z that depend on the image) | 2 |",
        "the 10 test images",
        "importance sampling with 200 draws",
        "The data set is a stand-in",
        "One training seed",
    ):
        assert part in text, part
    described = dict(line.split(maxsplit=1) for line in call("info", out))
    assert {"variant": "planar-1", "nll_nats": "10.5", "active_units": "2"}.items() <= described.items()
    with Image.open(out / "samples.png") as picture:
        assert picture.size[0] > picture.size[1] > 100
    call("sample", out, "-o", tmp_path / "s.npz")


def test_the_hub_reads_the_scores_of_a_card(project, call, tmp_path):
    call("export", project, "-o", tmp_path / "out")
    metadata, _ = card(tmp_path / "out")
    results = ModelCardData(model_name="planar-1-0", **metadata).eval_results
    assert [(result.metric_type, result.metric_value) for result in results] == [
        ("negative_elbo", 11.25),
        ("nll", 10.5),
        ("nll", 0.946753),
    ]
    assert {result.dataset_name for result in results} == {"Dots, static binarization"}
    assert results[1].metric_name == "NLL in nats per image, standard error 0.25"


def test_an_exported_model_can_be_exported_again(project, call, tmp_path):
    call("export", project, "-o", tmp_path / "a/planar-1-0")
    call("export", tmp_path / "a/planar-1-0", "-o", tmp_path / "b")
    for name in FILES | RESULTS:
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a/planar-1-0" / name).read_bytes(), name


@pytest.mark.parametrize("name", ["bits", "rgb", "ladder"])
def test_a_model_of_which_nothing_is_known(models, call, tmp_path, name):
    (line,) = call("export", models / name, "-o", tmp_path / "out")
    assert line == f"{tmp_path / 'out'}: a model card, without scores, weights and config"
    assert names(tmp_path / "out") == FILES
    metadata, text = card(tmp_path / "out")
    assert not {"license", "model-index"} & metadata.keys()
    for part in (
        "was not scored on test images",
        "What images it was trained on is not recorded",
        "it was trained is not recorded",
    ):
        assert part in text
    assert ("hierarchical" in text) == (name == "ladder") and "One training seed" not in text
    assert flowvae.load(tmp_path / "out").config == flowvae.load(models / name).config


def test_scores_from_a_file(models, call, tmp_path):
    write(tmp_path / "mine.json", {"nll_nats": 9.5, "fid": 3.5})
    call("export", models / "bits", "-o", tmp_path / "out", "--metrics", tmp_path / "mine.json")
    _, text = card(tmp_path / "out")
    assert "| NLL | 9.50 |  |" in text and "| fid | 3.5 |" in text and "is not recorded" in text


def test_a_picture_has_one_channel_or_three(call, tmp_path):
    flowvae.VAE((2, 4, 4), (2,)).save(tmp_path / "two")
    call("export", tmp_path / "two", "-o", tmp_path / "out")
    assert names(tmp_path / "out") == FILES - {"samples.png"} and "samples.png" not in card(tmp_path / "out")[1]


def test_images_that_changed_since_training_are_not_named(project, call, tmp_path):
    path = project.parents[1] / "data/prepared/train.json"
    info = json.loads(path.read_bytes())
    write(path, info | {"sha256": "0" * 64})
    call("export", project, "-o", tmp_path / "out")
    metadata, text = card(tmp_path / "out")
    assert "Images whose origin is not recorded; static binarization; 10 for training" in text
    assert "model-index" not in metadata


@pytest.mark.long
def test_code_of_the_card_runs(project, call, tmp_path):
    out = tmp_path / "out"
    _, *graphs = call("export", project, "-o", out, "--onnx")
    assert [line.split(": within ")[0] for line in graphs] == [
        f"{out / 'onnx' / name}.onnx" for name in ("encoder", "decoder", "sampler")
    ]
    _, text = card(out)
    code = python_of(text).replace("num_samples=200", "num_samples=2")
    assert "flowvae.load" in code and "onnxruntime" in code
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=out, check=True)


def test_mistakes(project, models, complaint, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    assert "taken: exists; choose a new folder" in complaint("export", project, "-o", tmp_path / "taken")
    assert "no such file" in complaint("export", project, "-o", out, "--metrics", tmp_path / "none.json")
    assert "'My License': expected an identifier" in complaint("export", project, "-o", out, "--license", "My License")
    write(tmp_path / "text.json", {"nll_nats": "good"})
    assert "expected numbers, got something else for nll_nats" in complaint(
        "export", project, "-o", out, "--metrics", tmp_path / "text.json"
    )
    write(tmp_path / "other.json", {"parameters": 3})
    assert "scores of a model with 3 parameters" in complaint(
        "export", project, "-o", out, "--metrics", tmp_path / "other.json"
    )
    training = json.loads((project / "training.json").read_bytes())
    write(project / "training.json", training | {"epochs": 8})
    assert "scores of another training than that of" in complaint("export", project, "-o", out)


class Hub(BaseHTTPRequestHandler):
    """What a push needs of the hub; `server.status` is that of its first answer."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        if self.server.status != 200:
            return self.answer({"error": f"no, {self.headers.get('Authorization')}"}, self.server.status)
        if self.path == "/api/repos/create":
            return self.answer({"url": f"{address(self.server)}/me/dots", "name": "me/dots"})
        if "/preupload/" in self.path:
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files_in(body)]
            return self.answer({"files": files})
        self.answer({"commitUrl": f"{address(self.server)}/me/dots/commit/0", "commitOid": "0" * 40, "success": True})

    def do_GET(self):
        self.answer({"id": "me/dots", "sha": "0" * 40, "siblings": [], "private": False, "tags": [], "downloads": 0})

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def files_in(body):
    return json.loads(body)["files"]


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def push(tmp_path, *arguments, endpoint, token=TOKEN):
    """Run `flowvae push` as a user does, with nothing of this user's huggingface_hub."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **({"HF_TOKEN": token} if token else {})}
    command = [sys.executable, "-m", "flowvae", "push", *map(str, arguments)]
    environment = own | variables | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def address(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("exported", [True, False])
def test_push_uploads_the_folder_and_nothing_else(project, call, tmp_path, hub, exported):
    folder = project
    if exported:
        call("export", project, "-o", folder := tmp_path / "planar-1-0")
    (folder / "secrets.env").write_text("KEY=1")
    ran = push(tmp_path, folder, "me/dots", "--private", endpoint=address(hub))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{address(hub)}/me/dots: 8 files\n", "")
    (created, *_), commit = hub.seen, hub.seen[-1]
    asked = json.loads(created[2])
    assert (asked["name"], asked["organization"]) == ("dots", "me")
    assert asked.get("visibility") == "private" or asked["private"]
    assert {sent for _, sent, _ in hub.seen} == {f"Bearer {TOKEN}"}
    assert commit[0].startswith("/api/models/me/dots/commit/main")
    lines = [json.loads(line) for line in commit[2].splitlines()]
    files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert files.keys() == FILES | RESULTS
    assert base64.b64decode(files["model.safetensors"]) == (project / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, "the token is not valid"), (403, "the token may not write there"), (418, "status 418")],
)
def test_refusals_are_one_line_without_the_token(models, tmp_path, hub, status, expected):
    hub.status = status
    ran = push(tmp_path, models / "bits", "me/dots", endpoint=address(hub))
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"flowvae: me/dots: refused by the hub: {expected}") and TOKEN not in line


def test_what_fails_before_the_network(models, tmp_path, hub):
    def line(*arguments, **options):
        ran = push(tmp_path, *arguments, endpoint=address(hub), **options)
        assert (ran.returncode, ran.stdout, hub.seen) == (1, "", []), ran.stderr
        (line,) = ran.stderr.splitlines()
        return line.removeprefix("flowvae: ")

    model = models / "bits"
    assert line(model, "me/dots", token=None) == "no token for the hub; set HF_TOKEN, or run hf auth login"
    assert line(model, "me/do ts") == "me/do ts: not the name of a repository; expected user/name"
    assert "config.json: cannot be read" in line(tmp_path, "me/dots")


def test_no_network_is_one_line(models, tmp_path):
    ran = push(tmp_path, models / "bits", "me/dots", endpoint="http://user:password@127.0.0.1:9")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("flowvae: me/dots: the hub cannot be reached (") and "password" not in line
