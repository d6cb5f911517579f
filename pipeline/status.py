"""Show which stages are stale, which run, and which have failed: python -m pipeline.status.

DVC knows what has changed since each stage ran, and which process runs one. A run of the workflow keeps the output of
each stage, and why it failed. Of a training that has not ended, whatever ran it, there is its log, and a checkpoint if
it was interrupted, or a file of diagnostics if its loss was not finite.
"""

import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from flowvae.errors import InputError
from pipeline import paths
from pipeline.dvc_internals import Changes, DvcException, changes, open_repo, outputs_of, plan, writers
from pipeline.listing import is_within
from pipeline.running.records import failure_of, output_file
from pipeline.running.redaction import redact

MAX_CHANGES = 4  # of a stage, that are shown
TRAIN = "train@"
RUN_ID = re.compile(r"-[0-9a-f]{8,}")  # what the name of a folder of checkpoints has after that of the run


def main() -> int:
    """Exit code 0, or 1 after one line per mistake of the user's on standard error."""
    try:
        print("\n".join(status_lines()))
    except Exception as error:  # DVC raises anything for values of params.yaml that its matrices do not expect
        for line in problems(error):
            print(f"status: {redact(line)}", file=sys.stderr)
        return 1
    return 0


def problems(error: Exception) -> list[str]:
    """What is wrong: with params.yaml if anything is, else as DVC says. Raises any other error again."""
    from pipeline.params.reading import load_params  # which takes as long as all else

    try:
        load_params(paths.PARAMS)
    except InputError as mistakes:
        return str(mistakes).splitlines()
    if not isinstance(error, DvcException):
        raise error
    return str(error).splitlines()


def status_lines() -> Iterator[str]:
    """What there is to say of all stages.

    Raises:
        DvcException: dvc.yaml or dvc.lock is invalid.
    """
    with open_repo() as repo:
        dependencies = plan(repo, []).dependencies
        outputs, running = outputs_of(repo), writers(repo)
        found = changes(repo, dependencies.keys() - running.keys())
    not_final = {path for stage in {*found, *running} for path in outputs[stage]}
    texts = {stage: text for stage in dependencies if stage in found and (text := words(found[stage], not_final))}
    later = after({*texts, *running}, dependencies)
    yield f"{len(dependencies) - len({*texts, *running, *later})} of {len(dependencies)} stages are up to date"
    yield from section("running", {stage: f"process {running[stage]}" for stage in dependencies if stage in running})
    not_running = {stage: outputs[stage] for stage in dependencies if stage not in running}
    stopped = {stage: stopped_text(stage, stage in texts, outs) for stage, outs in not_running.items()}
    yield from section("failed or interrupted", {stage: text for stage, text in stopped.items() if text})
    yield from section("stale", grouped(texts))
    yield from section("depend on those", grouped(dict.fromkeys(later, "")))


def words(changed: Changes, not_final: Collection[str]) -> str:
    """What has changed, without what stages that are stale or run will write; empty if nothing else has."""
    missing = [path for path, change in changed.outputs.items() if change == "deleted"]
    texts = [
        *changed.others,
        *(change_text(item) for item in changed.dependencies.items() if not overlaps(item[0], not_final)),
        *(change_text(item) for item in changed.outputs.items() if item[0] not in missing),
        *([f"{len(missing)} missing output{'s' if len(missing) > 1 else ''}"] if missing else []),
    ]
    more = [f"and {len(texts) - MAX_CHANGES} more"] if len(texts) > MAX_CHANGES else []
    return ", ".join([*texts[:MAX_CHANGES], *more])


def overlaps(path: str, others: Collection[str]) -> bool:
    """Whether a path is one of the others, is in one, or holds one."""
    return is_within(path, others) or any(is_within(other, (path,)) for other in others)


def change_text(item: tuple[str, str | Mapping[str, str]]) -> str:
    """One file, or the params of one file."""
    path, change = item
    return f"{path} {change}" if isinstance(change, str) else f"{path}: {', '.join(change)}"


def grouped(stages: Mapping[str, str]) -> dict[str, str]:
    """One entry for all instances of a stage with the same text."""
    groups: dict[tuple[str, str], list[str]] = {}
    for stage, text in stages.items():
        groups.setdefault((stage.partition("@")[0], text), []).append(stage)
    return {
        names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more of {kind}": text
        for (kind, text), names in groups.items()
    }


def section(title: str, stages: Mapping[str, str]) -> Iterator[str]:
    """A title and a line for each stage, with its log; nothing if there are no stages."""
    if stages:
        yield f"{title}:"
    width = max(map(len, stages), default=0)
    for stage, text in stages.items():
        log = log_of(stage)
        yield f"  {stage:<{width}}  {'; '.join(filter(None, (text, f'log: {log}' if log else '')))}".rstrip()


def after(stages: Iterable[str], dependencies: Mapping[str, Iterable[str]]) -> list[str]:
    """The other stages that depend on some stages, directly or not, in the order of `dependencies`."""
    reached = set(stages)
    later = []
    for stage, needed in dependencies.items():  # each after those that it depends on
        if stage not in reached and not reached.isdisjoint(needed):
            reached.add(stage)
            later.append(stage)
    return later


def log_of(stage: str) -> Path | None:
    """The last log of a stage: its output in a run of the workflow, or what a training has written; None without."""
    kind, _, name = stage.partition("@")
    logs = [path for path in (output_file(stage), paths.LOGS / kind / f"{name}.log") if path.is_file()]
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)


def stopped_text(stage: str, is_stale: bool, outputs: Iterable[str]) -> str:
    """Why a stage that does not run now has not ended; empty if it has, or if nothing is known of it."""
    if failure := failure_of(stage, map(Path, outputs)):
        return failure
    if not is_stale or not stage.startswith(TRAIN):
        return ""
    name = stage.removeprefix(TRAIN)
    diagnostics, model = paths.LOGS / "train" / f"{name}.non_finite.json", paths.MODELS / name
    if diagnostics.is_file() and not (model.exists() and model.stat().st_mtime > diagnostics.stat().st_mtime):
        return f"its loss was not finite: {diagnostics}"
    folders = paths.CHECKPOINTS.glob(f"{name}-*")
    resumes = any(RUN_ID.fullmatch(folder.name.removeprefix(name)) for folder in folders)
    return "interrupted, resumes from its checkpoint" if resumes else ""


if __name__ == "__main__":
    sys.exit(main())
