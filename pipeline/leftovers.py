"""Outputs of runs and studies that params.yaml does not declare: they are set aside, and come back if it does again."""

from collections.abc import Iterator
from pathlib import Path

from pipeline import paths
from pipeline.listing import remove
from pipeline.params.schema import Params, run_name

# The folders of what each run and each study writes, with the endings of the names; models are folders.
OF_RUNS = {
    paths.MODELS: ("",),
    paths.CURVES: (".csv",),
    paths.METRICS: (".json",),
    paths.PROTOCOLS: (".json",),
    paths.DIAGNOSTICS: (".json",),
    paths.SCORES: (".safetensors",),
    paths.FIGURES / "samples": (".png",),
    paths.FIGURES / "reconstructions": (".png",),
}
OF_STUDIES = {paths.STUDIES: (".csv", ".yaml")}


def set_aside(params: Params) -> list[str]:
    """Move what params.yaml does not declare into `unused`, and what it declares again back from there.

    DVC compares what comes back with dvc.lock, so nothing is trained again that fits.

    Returns:
        A line for each of the two, if there is something to say.
    """
    declared: set[Path] = set()
    places: dict[Path, tuple[str, ...]] = {}
    runs = [run_name(variant, seed) for variant in params.variants for seed in params.seeds]
    for folders, names in ((OF_RUNS, runs), (OF_STUDIES, list(params.studies))):
        places.update(folders)
        declared |= {
            folder / f"{name}{ending}" for folder, endings in folders.items() for name in names for ending in endings
        }
    back = [path for path in sorted(declared) if not path.exists() and (paths.UNUSED / path).exists()]
    for path in back:
        move(paths.UNUSED / path, path)
    others = [
        path for folder, endings in places.items() for path in outputs_in(folder, endings) if path not in declared
    ]
    for path in others:
        move(path, paths.UNUSED / path)
    lines = {f"set aside in {paths.UNUSED}/, because params.yaml does not declare them": others, "brought back": back}
    return [
        f"{text}: {', '.join(dict.fromkeys(path.stem for path in moved))}" for text, moved in lines.items() if moved
    ]


def outputs_in(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """What stages have written into a folder: folders if the ending is empty, else files with one of the endings."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_output = path.is_dir() if endings == ("",) else path.is_file() and path.suffix in endings
        if is_output and not path.name.startswith("."):
            yield path


def move(source: Path, target: Path) -> None:
    """Move a file or a folder, in place of what is there."""
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
