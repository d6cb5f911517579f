"""Commands on a model folder: what they are called with. `flowvae.commands.work` does the work."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flowvae.commands.adding import add
from flowvae.errors import InputError

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", exists=True, file_okay=False, help="A folder with model.safetensors and config.json."
    ),
]
ImagePaths = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        exists=True,
        help="Image files, folders of them, or arrays (.npy, .npz). They are cut to the proportions of the model's "
        "images, resized, and become grey or colour as those.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write; its ending says how.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]
Binarize = Annotated[
    Literal["threshold", "draw"],
    typer.Option(
        help="How grey values become bits, for a model of bits: above half is 1, or 1 is drawn in proportion."
    ),
]
Device = Annotated[
    str | None, typer.Option(envvar="FLOWVAE_DEVICE", help="cpu or cuda; default: the GPU if there is one.")
]
Mean = Annotated[bool, typer.Option("--mean", help="Expected images in place of draws.")]


def info(model: Model) -> None:
    """Show the parts of a model.

    They are its images, latents, flows, networks and parameters, how it was trained, and its metrics if it has them.
    """
    from flowvae.description import describe

    described = describe(model)
    width = max(map(len, described))
    report(*(f"{name:<{width}}  {value}" for name, value in described.items()))


def sample(
    model: Model,
    out: Out,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Of images.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="Below 1, samples vary less and often look better.")] = 1.0,
    mean: Mean = False,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Draw images from a model.

    FILE is a .png picture of all of them, or an .npz file, whose array `images` the other commands read.
    """
    check_ending(out, ".png", ".npz")
    from flowvae.commands import work

    report(work.sample(work.open_model(model, device), out, number, temperature, mean=mean, seed=seed))


def reconstruct(
    model: Model,
    images: ImagePaths,
    out: Out,
    binarize: Binarize = "threshold",
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Encode and decode images.

    A reconstruction is the expected image at the centre of the posterior. FILE is a .png picture, in which each row of
    images is above that of their reconstructions, or an .npz file.
    """
    check_ending(out, ".png", ".npz")
    from flowvae.commands import work

    report(work.reconstruct(*work.open_both(model, device, images, binarize, seed), out))


def interpolate(
    model: Model,
    images: ImagePaths,
    out: Out,
    steps: Annotated[int, typer.Option(min=2, help="Images on each path, with both ends.")] = 8,
    path: Annotated[Literal["linear", "spherical"], typer.Option(help="Its shape.")] = "spherical",
    space: Annotated[
        Literal["latent", "base"], typer.Option(help="Where it has this shape: latents, or the noise of the prior.")
    ] = "latent",
    binarize: Binarize = "threshold",
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Walk through latent space.

    From the first image to the second, from the third to the fourth, and so on. FILE is a .png picture, in which a row
    is an image, the path between the two reconstructions, and the other image, or an .npz file.
    """
    check_ending(out, ".png", ".npz")
    from flowvae.commands import work

    report(work.walk(*work.open_both(model, device, images, binarize, seed), out, steps, path, space))


def encode(
    model: Model,
    images: ImagePaths,
    out: Out,
    binarize: Binarize = "threshold",
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Write the latents of images.

    They are the centre of each posterior. FILE is a .csv table or an .npz file.
    """
    check_ending(out, ".csv", ".npz")
    from flowvae.commands import work

    report(work.encode(*work.open_both(model, device, images, binarize, seed), out))


def score(
    model: Model,
    images: ImagePaths,
    samples: Annotated[int, typer.Option(min=1, help="Draws per image; more make NLL tighter.")] = 200,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="A .csv file for the scores of each image.")
    ] = None,
    binarize: Binarize = "threshold",
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Measure -ELBO and NLL of images.

    In nats per image and in bits per dimension; NLL is the importance-weighted bound (arXiv:1509.00519, equation 8).
    Each is a mean over images ± its standard error. Compare only numbers of the same images and the same draws.
    """
    if out:
        check_ending(out, ".csv")
    from flowvae.commands import scoring, work

    report(*scoring.score(*work.open_both(model, device, images, binarize, seed), out, samples, seed))


def impute(
    model: Model,
    images: ImagePaths,
    out: Out,
    mask: Annotated[
        str,
        typer.Option(
            metavar="MASK",
            help="The missing pixels: lower-half, upper-half, left-half or right-half, or a file in which they are "
            "white (an image) or not 0 (.npy).",
        ),
    ],
    steps: Annotated[int, typer.Option(min=1, help="Of the Markov chain.")] = 100,
    mean: Mean = False,
    binarize: Binarize = "threshold",
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Fill in missing pixels.

    They are sampled from the posterior: each step draws the latents given the image, and then the missing pixels given
    the latents (arXiv:1401.4082, appendix F). FILE is a .png picture with rows of images, of the same with their
    missing pixels in grey, and of what came out, or an .npz file.
    """
    check_ending(out, ".png", ".npz")
    from flowvae.commands import work

    opened = work.open_both(model, device, images, binarize, seed)
    report(work.fill_in(*opened, out, mask, steps, mean=mean, seed=seed))


def check_ending(path: Path, *endings: str) -> None:
    """Raise InputError unless a file that is to be written has one of these endings."""
    if path.suffix.lower() not in endings:
        raise InputError(f"--out: {path}: expected a file that ends with {' or '.join(endings)}")


def report(*lines: str) -> None:
    """Print what was done."""
    for line in lines:
        typer.echo(line)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    model = "models/real-nvp-5-0"
    add(app, info, f"info {model}")
    add(app, sample, f"sample {model} -o samples.png", f"sample {model} -o samples.npz -n 1000 --temperature 0.8")
    add(app, reconstruct, f"reconstruct {model} photos/ -o pairs.png")
    add(app, interpolate, f"interpolate {model} a.png b.png -o path.png --steps 12")
    add(app, encode, f"encode {model} photos/ -o codes.csv", f"encode {model} images.npy -o codes.npz")
    add(app, score, f"score {model} photos/ --samples 1000", f"score {model} test.npy -o scores.csv --binarize draw")
    add(
        app,
        impute,
        f"impute {model} photos/ -o filled.png --mask lower-half",
        f"impute {model} a.png -o a.npz --mask hole.png --steps 500",
    )
