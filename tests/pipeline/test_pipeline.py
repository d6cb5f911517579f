"""The results of one `dvc repro`: the table, its protocol, the studies, and the page."""

import csv
import json
import math
import re
from html.parser import HTMLParser

from project import EVALUATED, RUNS, STUDIES, TRAINED, VARIANTS, command, stages_run, study_rows
from ruamel.yaml import YAML

from flowvae.data.arrays import SPLITS, read_metadata
from flowvae.datasets.mnist import FALLBACK_BANNER

COLUMNS = (
    "variant,posterior,posterior_transforms,prior,prior_transforms,seed,dataset,binarization,num_train,num_test,epochs,num_importance_samples,"
    "reconstruction_nats,kl_nats,negative_elbo_nats,negative_elbo_stderr,nll_nats,nll_stderr,active_units,parameters,"
    "negative_elbo_bits_per_dim,negative_elbo_bits_per_dim_stderr,nll_bits_per_dim,nll_bits_per_dim_stderr"
)


def outputs_of(lock: dict) -> set[str]:
    return {out["path"] for stage in lock["stages"].values() for out in stage["outs"]}


def test_every_stage_ran_once_and_wrote_its_outputs(reproduced):
    assert stages_run(reproduced.ran) == {"prepare", "interpolate", "report"} | TRAINED | EVALUATED | STUDIES
    lock = YAML(typ="safe", pure=True).load(reproduced.folder / "dvc.lock")
    outputs = outputs_of(lock)
    assert {f"models/{run}" for run in RUNS} <= outputs
    assert {f"scores/{run}.safetensors" for run in RUNS} <= outputs
    assert {f"metrics/{run}.json" for run in RUNS} | {f"curves/{run}.csv" for run in RUNS} <= outputs
    assert {f"reports/studies/{name}.{kind}" for name in ("depth", "stability") for kind in ("csv", "yaml")} <= outputs
    assert {"reports/results.csv", "reports/results.md", "reports/index.html", "reports/figures/studies"} <= outputs
    assert [path for path in outputs if not (reproduced.folder / path).exists()] == []


def test_times_and_throughput_are_in_no_output(reproduced):
    lock = YAML(typ="safe", pure=True).load(reproduced.folder / "dvc.lock")
    assert not any("timing" in path or path.startswith("logs") for path in outputs_of(lock))
    for stage in ("train", "evaluate"):
        for run in RUNS:
            assert json.loads((reproduced.folder / f"timings/{stage}/{run}.json").read_text())["seconds"] >= 0
    for run in RUNS:
        with (reproduced.folder / f"timings/epochs/{run}.csv").open() as file:
            assert all(float(row["seconds"]) > 0 for row in csv.DictReader(file))
    assert (reproduced.folder / "reports/figures/against_time.png").is_file()
    for name in ("depth", "stability"):
        rows = study_rows(reproduced.folder, name)
        assert not any("second" in column for row in rows for column in row)
        with (reproduced.folder / f"timings/study/{name}.csv").open() as file:
            speeds = list(csv.DictReader(file))
        assert [speed["trial"] for speed in speeds] == [row["trial"] for row in rows]
        assert all(float(speed["images_per_second"]) > 0 for speed in speeds)
    assert not list(reproduced.folder.rglob("*.partial"))


def test_git_tracks_results_but_neither_data_nor_times(reproduced):
    tracked = command(reproduced.folder, "git", "ls-files").stdout.splitlines()
    assert {"dvc.lock", "reports/results.csv", "reports/index.html", "metrics/vae-0.json"} <= set(tracked)
    assert {"reports/studies/depth.csv", "reports/figures/studies/depth.png"} <= set(tracked)
    private = re.compile(r"^(data|models|scores|logs|timings|reports/latents)/|timings\.csv$|against_time|__pycache__")
    assert [path for path in tracked if private.search(path)] == []


def test_table(reproduced):
    text = (reproduced.folder / "reports/results.csv").read_text()
    assert text.splitlines()[0] == COLUMNS
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["variant"], row["posterior"], row["posterior_transforms"], row["seed"]) for row in rows] == [
        ("vae", "none", "0", "0"),
        ("planar-4", "planar", "2", "0"),
        ("real-nvp-2", "real_nvp", "1", "0"),
    ]
    for row in rows:
        assert (row["num_train"], row["num_test"], row["epochs"]) == ("4000", "500", "1")
        for name in ("negative_elbo", "nll"):
            bits = float(row[f"{name}_nats"]) / 784 / math.log(2)
            assert math.isclose(float(row[f"{name}_bits_per_dim"]), bits, abs_tol=1e-6)
        assert (row["dataset"], row["binarization"]) == ("MNIST, 5,000 digits", "static")
        assert row["num_importance_samples"] == "2" and int(row["parameters"]) > 0
        bound, nll = float(row["negative_elbo_nats"]), float(row["nll_nats"])
        assert math.isclose(float(row["reconstruction_nats"]) + float(row["kl_nats"]), bound, abs_tol=2e-4)
        assert 0 < nll < bound + 3 * float(row["nll_stderr"]) and float(row["negative_elbo_stderr"]) > 0


def test_protocol_is_stamped_on_every_number(reproduced):
    protocol = json.loads((reproduced.folder / "metrics/protocol/planar-4-0.json").read_text())
    assert (protocol["variant"], protocol["seed"]) == ("planar-4", 0)
    params = YAML(typ="safe", pure=True).load(reproduced.folder / "params.yaml")
    assert protocol["training"] == params["training"]
    assert protocol["evaluation"] == params["evaluation"] | {"num_nll_images": 20}
    metadata = read_metadata(reproduced.folder / "data/prepared")
    assert protocol["data"] == {split: metadata.arrays[split].model_dump(mode="json") for split in SPLITS}
    assert metadata.counts == {"train": 4000, "valid": 500, "test": 500}


def test_fallback_is_announced_everywhere(reproduced):
    folder = reproduced.folder
    assert read_metadata(folder / "data/prepared").provenance.banner == FALLBACK_BANNER
    markdown = (folder / "reports/results.md").read_text()
    assert FALLBACK_BANNER in markdown and markdown.index(FALLBACK_BANNER) < markdown.index("|")
    page = (folder / "reports/index.html").read_text()
    assert FALLBACK_BANNER in page and page.index(FALLBACK_BANNER) < page.index("<table")
    assert FALLBACK_BANNER in reproduced.ran.stderr


class Page(HTMLParser):
    """Collects the addresses in a page, and checks that its tags are closed."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_complete_and_self_contained(reproduced):
    page = Page()
    page.feed((reproduced.folder / "reports/index.html").read_text())
    page.close()
    assert page.open == []
    assert page.addresses.count("figures/against_time.png") == 1  # a link: times are in no output, nor in the page
    others = [address for address in page.addresses if not address.startswith(("data:image/", "#"))]
    assert others == ["data:,", "figures/against_time.png"]  # the icon: without it, browsers ask for one
    shown = len(STUDIES) + 4 * len(VARIANTS) + len(VARIANTS) + 1  # galleries, paths, and images of the maps
    assert page.tags.count("img") == shown
    assert page.tags.count("table") == 5 + len(STUDIES)  # of variants, curves, uses, diagnostics, and published results
    assert not {"iframe", "object", "embed"} & set(page.tags)
