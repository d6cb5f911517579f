"""What is done once rows are trained: NLL of all test images for the best, and weights for git."""

from collections.abc import Iterable

from flowvae.errors import InputError
from flowvae.files import sha256
from flowvae.model.loading import load
from flowvae.model.weights import WEIGHTS
from pipeline import paths
from pipeline.rows.places import state_folder
from pipeline.rows.plan import Row
from pipeline.rows.records import Done
from pipeline.rows.state import State

MAX_BYTES = 4 << 20  # of a file of weights in git


def to_finish(state: State) -> list[Row]:
    """The best row of each family, and the plain VAE with its seed, where the NLL of some test images is missing.

    Raises:
        InputError: there are such rows, and none has its weights on this machine.
    """
    best = best_of_families(state)
    wanted = [*best, *(reference for done in best if (reference := state.reference(done)))]
    partial = {done.row.name: done for done in wanted if not is_complete(done)}.values()
    here = [done.row for done in partial if has_weights(done)]
    if partial and not here:
        raise InputError(f"the weights of {names(partial)} are on other machines; finish them there")
    return here


def best_of_families(state: State) -> list[Done]:
    """The best row of each family in each study by −ELBO on validation."""
    best: dict[tuple[str, str], Done] = {}
    for done in state.finished:
        key = done.row.study, done.row.point.family
        best[key] = min(best.get(key, done), done, key=validation)
    return list(best.values())


def validation(done: Done) -> float:
    """The lowest −ELBO on validation images, in nats: of the weights that were kept."""
    return min(done.record.curve["valid_negative_elbo"])


def is_complete(done: Done) -> bool:
    """Whether the NLL of all test images was measured."""
    return bool(done.record.evaluation.num_nll_images == done.record.protocol["images"]["test"])


def has_weights(done: Done) -> bool:
    """Whether the weights of a row are on this machine."""
    path = state_folder(done.row) / WEIGHTS
    return path.is_file() and sha256(path) == done.record.weights_sha256


def names(rows: Iterable[Done]) -> str:
    """Their names."""
    return ", ".join(done.row.name for done in rows)


def publish_models(state: State) -> None:
    """Copy the best row and the plain VAE with its seed to where git has them, as far as their weights are here.

    Weights of more than 4 MiB are stored with 16 bits each, which sampling does not show.
    """
    if not state.finished:
        return
    best = min(state.finished, key=validation)
    for name, done in {"best": best, "vae": state.reference(best)}.items():
        if done and has_weights(done):
            folder = paths.STUDY_MODELS / done.row.preset / name
            vae = load(state_folder(done.row))
            vae.save(folder)
            if (folder / WEIGHTS).stat().st_size > MAX_BYTES:
                vae.half().save(folder)
            print(f"study: {folder} is {done.row.name}", flush=True)
