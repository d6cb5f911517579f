"""Train one recipe on the Larochelle split, and add its row to benchmarks/recipes.csv.

python -m benchmarks.recipe_search --epochs 30 [--seed 0] [--flow real-nvp-5] [KEY=VALUE ...] with keys of
params.yaml, as in training.weight_decay=0.1. Judged on validation images alone; the test images are not
read here. data/prepared must hold the split (data.binarization: larochelle; dvc repro prepare).
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from flowvae.data.arrays import open_images, read_metadata
from flowvae.errors import InputError
from flowvae.training import fit
from flowvae.vae import build_vae
from pipeline.params import PARAMS, Params, check_params, load_params
from pipeline.preset import overlay

TABLE = Path(__file__).with_name("recipes.csv")
COLUMNS = (
    "variant", "settings", "epochs", "seed", "valid_negative_elbo", "valid_reconstruction", "valid_kl",
    "train_negative_elbo", "best_epoch", "weights",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", default="real-nvp-5")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    try:
        row = try_recipe(options.variant, options.epochs, options.seed, options.settings)
    except InputError as error:
        print(f"recipe_search: {error}", file=sys.stderr)
        return 1
    new = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)
    return 0


def try_recipe(variant: str, epochs: int, seed: int, settings: list[str]) -> dict[str, Any]:
    """Fit, and score the epoch that was best on validation."""
    params = with_settings(load_params(PARAMS), [*settings, f"training.epochs={epochs}"])
    folder = Path("data/prepared")
    metadata = read_metadata(folder)
    if metadata.binarization != "larochelle":
        raise InputError(f"{folder}: expected the Larochelle split, got {metadata.binarization} binarization")
    train, valid = (open_images(folder, split, torch.device("cpu")) for split in ("train", "valid"))
    vae = build_vae(params.vae_config(variant, metadata.image_shape), seed=seed)
    records = fit(vae, train, valid, params.training, seed=seed)
    best = min(records, key=lambda record: record.valid_negative_elbo)
    return {
        "variant": variant,
        "settings": " ".join(settings),
        "epochs": epochs,
        "seed": seed,
        "valid_negative_elbo": round(best.valid_negative_elbo, 2),
        "valid_reconstruction": round(best.valid_reconstruction, 2),
        "valid_kl": round(best.valid_kl, 2),
        "train_negative_elbo": round(best.train_negative_elbo, 2),
        "best_epoch": best.epoch,
        "weights": sum(weight.numel() for weight in vae.parameters()),
    }


def with_settings(params: Params, settings: list[str]) -> Params:
    """Params with KEY=VALUE settings in place of their own."""
    changes: dict[str, Any] = {}
    for setting in settings:
        path, _, value = setting.partition("=")
        node = changes
        *parents, last = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = YAML(typ="safe", pure=True).load(value)
    return check_params(overlay(params.model_dump(mode="json"), changes), Path("settings"))


if __name__ == "__main__":
    sys.exit(main())
