"""The model card: what a model is, how it was trained and scored, how to use it, and what to beware of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flowvae.data.arrays import is_eight_bit, pixel_text
from flowvae.description import describe_model, size_text
from flowvae.export.front_matter import front_matter
from flowvae.export.results import Results
from flowvae.export.scores import accuracy_text, other_scores, protocol_text, score_table
from flowvae.model.vae import VAE

PICTURE = "samples.png"


class Card(NamedTuple):
    """What a card is written from.

    Attributes:
        name: of the model.
        vae: the model, without weight norm.
        results: what is known of its training and its scores.
        version: of flowvae.
        picture: whether there is a picture of samples.
        differences: of ONNX graphs from torch, by name; empty for no graphs.
        license: identifier on the hub; None if it is not known.
    """

    name: str
    vae: VAE
    results: Results
    version: str
    picture: bool
    differences: Mapping[str, float]
    license: str | None

    @property
    def text(self) -> str:
        """Contents of README.md."""
        return "\n\n".join((front_matter(self.metadata), *self.parts())) + "\n"

    @property
    def metadata(self) -> dict[str, Any]:
        """What a hub reads of a card, https://huggingface.co/docs/hub/model-cards."""
        flows = [part for part in (self.vae.config.posterior, self.vae.config.prior) if part and part.num_transforms]
        tags = ["variational-autoencoder", "normalizing-flows", "pytorch", *dict.fromkeys(part.flow for part in flows)]
        return {
            **({"license": self.license} if self.license else {}),
            "library_name": "flowvae",
            "pipeline_tag": "unconditional-image-generation",
            "tags": tags + (["onnx"] if self.differences else []),
            **self.model_index(),
        }

    def model_index(self) -> dict[str, Any]:
        """The scores, where it is known what images they are of."""
        scores, dataset = list(score_table(self.results.metrics)), self.results.provenance.get("dataset")
        if not scores or not dataset:
            return {}
        metrics = [
            {"type": score.name, "name": f"{score.label} in {unit}{accuracy_text(error)}", "value": value}
            for score in scores
            for unit, (value, error) in score.values.items()
        ]
        task = {"type": "unconditional-image-generation", "name": "Density estimation of images"}
        data = {"type": "-".join(dataset.lower().split()), "name": f"{dataset}, {self.pixels}", "split": "test"}
        return {"model-index": [{"name": self.name, "results": [{"task": task, "dataset": data, "metrics": metrics}]}]}

    @property
    def pixels(self) -> str:
        """What the pixels are."""
        binarization = self.split("train").get("binarization")
        return pixel_text(binarization) if binarization else "bits" if self.vae.of_bits else "8-bit values"

    def split(self, name: str) -> Mapping[str, Any]:
        """What is known of the images of a split."""
        data = (self.results.protocol or self.results.training).get("data", {})
        found = data.get(name, {})
        return found if isinstance(found, Mapping) else {}

    def parts(self) -> Iterator[str]:
        """Headings and paragraphs."""
        yield f"# {self.name}"
        if banner := self.results.provenance.get("banner"):
            yield f"> **{banner}**"
        yield f"{self.summary()} Made with flowvae {self.version}."
        if self.picture:
            yield f"![Samples]({PICTURE})"
            yield "Rows in pairs: expected images of draws of z from the prior, and below each one a draw from p(x|z)."
        yield "## The model"
        yield two_columns(describe_model(self.vae))
        yield "## Data"
        yield self.data()
        yield "## Training"
        yield self.training()
        yield "## Scores"
        yield from self.scores()
        yield "## Use"
        yield from self.use()
        yield "## Limits"
        yield "\n".join(f"- {limit}" for limit in self.limits())

    def summary(self) -> str:
        """What the model is, in a sentence or two."""
        config, dim = self.vae.config, self.vae.latent_dim
        flows = [
            f"a flow of {part.num_transforms} transformation{'' if part.num_transforms == 1 else 's'} "
            f"({part.flow}) in the {name}"
            for name, part in (("posterior", config.posterior), ("prior", config.prior))
            if part and part.num_transforms
        ]
        kind = "hierarchical variational autoencoder" if len(self.levels) > 1 else "variational autoencoder"
        return (
            f"A {kind} with {' and '.join(flows) or 'a normal posterior and prior, without flows'}, of images of "
            f"{size_text(config.image_shape)} ({'bits' if self.vae.of_bits else '8-bit values'}) and {dim} latents."
        )

    @property
    def levels(self) -> Sequence[Any]:
        """Levels of latents."""
        shape = self.vae.config.latent_shape
        return shape if isinstance(shape[0], Sequence) else (shape,)

    def data(self) -> str:
        """What it was trained on."""
        known, counts = (
            self.results.provenance,
            {
                name: f"{self.split(name)['shape'][0]:,} {text}"
                for name, text in (("train", "for training"), ("valid", "for validation"), ("test", "for testing"))
                if "shape" in self.split(name)
            },
        )
        if not counts and not known:
            return "What images it was trained on is not recorded."
        name = f"{known['dataset']} ({known['origin']})" if known else "Images whose origin is not recorded"
        drawn = (
            ""
            if not known or is_eight_bit(self.split("train")["binarization"])
            else (f" (seed {known['binarization_seed']})")
        )
        lines = [f"{name}; {self.pixels}{drawn}; {', '.join(counts.values())}."]
        lines += [f"Split: {known['split']}."] if known else []
        lines += [f"Processing: {known['processing']}."] if known.get("processing") else []
        if skipped := {split: count for split, count in known.get("corrupt", {}).items() if count}:
            lines.append(f"Skipped, because they could not be read: {two_words(skipped)}.")
        if checksum := self.split("train").get("sha256"):
            lines.append(f"SHA-256 of the array of training images: `{checksum}`.")
        return " ".join(lines)

    def training(self) -> str:
        """How it was trained."""
        trained = self.results.training
        settings = trained.get("training", {})
        if "epochs" not in trained or not settings:
            return "How it was trained is not recorded."
        at_most = "At most " if settings.get("patience") else ""
        return (
            f"{at_most}{trained['epochs']} epochs of batches of {settings['batch_size']}, objective "
            f"{settings['objective']}, learning rate up to {settings['learning_rate']:g}, training seed "
            f"{trained['seed']}; weights of the epoch that was best on validation images. `training.json` has all "
            f"settings."
        )

    def scores(self) -> Iterator[str]:
        """What was measured, how, and what it means."""
        metrics = self.results.metrics
        if not metrics:
            yield "This model was not scored on test images."
            return
        rows = [
            [score.label, *(score.text(unit) for unit in ("nats per image", "bits per dimension"))]
            for score in score_table(metrics)
        ]
        yield table(["mean over test images", "nats per image", "bits per dimension"], rows)
        if others := other_scores(metrics):
            yield two_columns(others)
        yield protocol_text(self.results.protocol, self.split("test"))
        yield (
            "−ELBO = −log p(x|z) + KL bounds −log p(x) from above, the more tightly the better the posterior is. NLL "
            "estimates −log p(x) itself by importance sampling, and is above it in expectation, less so with more "
            "draws. Lower is better. Bits per dimension are nats divided by C H W ln 2. Compare these numbers only "
            "with those of the same images, binarized in the same way, and of as many draws."
        )

    def use(self) -> Iterator[str]:
        """Code that loads and samples it."""
        shape, dim = ", ".join(map(str, self.vae.config.image_shape)), self.vae.latent_dim
        yield "With the Python package `flowvae`:"
        yield f"""```python
import flowvae

folder = "."  # this one; or huggingface_hub.snapshot_download("user/{self.name}")
vae = flowvae.load(folder)
images = vae.sample(16)  # draws, (16, {shape}), values in [0, 1]; expected images with mean=True
z = vae.encode(images)  # (16, {dim})
log_likelihood = vae.log_prob(images, num_samples=200)  # nats per image, (16,)
```"""
        if self.differences:
            worst = max(self.differences.values())
            yield f"With onnxruntime alone; its results are within {worst:.0e} of those of torch:"
            yield f"""```python
import numpy as np
import onnxruntime

sampler = onnxruntime.InferenceSession("onnx/sampler.onnx")
noise = np.random.default_rng(0).standard_normal((16, {dim})).astype(np.float32)  # times a temperature
images, z = sampler.run(["mean", "z"], {{"noise": noise}})  # expected images, (16, {shape})
```"""
            yield GRAPHS_TEXT

    def limits(self) -> Iterator[str]:
        """What to beware of."""
        if self.results.provenance.get("banner"):
            yield "The data set is a stand-in, see above: the scores are not those of the full data set."
        if "seed" in self.results.training:
            yield "One training seed: another one gives other scores, and the standard errors leave that out."
        if not self.results.metrics:
            yield "Without scores, nothing says how good it is."
        yield "It knows images like those it was trained on: a likelihood of other images says little about them."
        yield f"It takes images of {size_text(self.vae.config.image_shape)}; others must be cut and resized before."


GRAPHS_TEXT = """| file | inputs | outputs |
|---|---|---|
| `onnx/encoder.onnx` | `images` (N, C, H, W) in [0, 1]; `noise` (N, D), standard normal | `center` of the posterior, \
and a draw `z` from it, (N, D) |
| `onnx/decoder.onnx` | `z` (N, D) | `mean`, the expected images (N, C, H, W); `parameters` of the likelihood, \
(N, P, H, W) |
| `onnx/sampler.onnx` | `noise` (N, D), standard normal | `mean`, expected images (N, C, H, W); `z` (N, D) |"""


def two_columns(values: Mapping[str, Any]) -> str:
    """Names and values as a table."""
    return table(["", ""], [[name, str(value)] for name, value in values.items()])


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---", *["---:" if len(headings) > 2 else "---"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def two_words(values: Mapping[str, Any]) -> str:
    """Names and values in a sentence."""
    return ", ".join(f"{value} ({name})" for name, value in values.items())
