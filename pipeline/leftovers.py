"""Outputs of runs and studies that params.yaml does not declare: they are set aside, and come back if it does again."""

import shutil
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
    paths.DOWNSTREAM: (".json",),
    paths.SCORES: (".safetensors",),
    paths.FIGURES / "samples": (".png",),
    paths.FIGURES / "nearest": (".png",),
    paths.FIGURES / "reconstructions": (".png",),
    paths.FIGURES / "imputations": (".png",),
}
OF_STUDIES = {paths.STUDIES: (".csv", ".yaml")}


def set_aside(params: Params) -> list[str]:
    """Move what params.yaml does not declare into `unused`, and what it declares again back from there.

    DVC compares what comes back with dvc.lock, so nothing is trained again that fits.

    Returns:
        A line for each of the two, if there is something to say.
    """
    runs = [run_name(variant, seed) for variant in params.variants for seed in params.seeds]
    places = [(*place, runs) for place in OF_RUNS.items()] + [
        (*place, list(params.studies)) for place in OF_STUDIES.items()
    ]
    others, back = [], []
    for folder, endings, names in places:
        declared = [f"{name}{ending}" for name in names for ending in endings]
        for name in declared:
            if not (folder / name).exists() and (paths.UNUSED / folder / name).exists():
                back.append(move(paths.UNUSED / folder / name, folder / name))
        for path in list(outputs_in(folder, endings)):
            if path.name not in declared:
                others.append(move(path, paths.UNUSED / path))
    texts = {f"set aside in {paths.UNUSED}/, because params.yaml does not declare them": others, "brought back": back}
    return [f"{text}: {', '.join(dict.fromkeys(moved))}" for text, moved in texts.items() if moved]


def outputs_in(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """What stages have written into a folder: folders if the ending is empty, else files with one of the endings."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_output = path.is_dir() if endings == ("",) else path.is_file() and path.suffix in endings
        if is_output and not path.name.startswith("."):
            yield path


def move(source: Path, target: Path) -> str:
    """Move a file or a folder, in place of what is there. Returns: the name of the run or the study."""
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)  # the folders may be links to other disks
    return target.stem
