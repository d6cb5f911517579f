"""Weights & Biases, by its own client. WANDB_MODE, WANDB_PROJECT and its other variables say where runs go."""

from collections.abc import Mapping
from pathlib import Path

from flowvae.errors import InputError
from pipeline.running.trackers.tracker import TrackedRun, Tracker, Value


class WandB(Tracker):
    """A run of W&B. Runs are grouped by variant, and trials by study.

    Offline, each process that adds to a run leaves a folder of its own, which `wandb sync` puts together.
    """

    place = "WANDB_DIR to a shared folder, or WANDB_MODE=online"

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.run = wandb.init(
            id=run.run_id,
            name=run.name,
            group=run.group,
            job_type="trial" if run.is_trial else "train",
            config=run.config,
            resume="allow",
            reinit="create_new",  # trials of a study run at the same time
        )
        self.last_epoch = None if self.run.offline else int(self.run.summary.get("epoch") or 0)
        self.address = self.run.url or str(Path(self.run.dir).parent)

    @staticmethod
    def defaults(folder: Path) -> dict[str, str]:
        return {
            "WANDB_DIR": str(folder),
            "WANDB_PROJECT": "flowvae",
            "WANDB_SILENT": "true",
            "WANDB_CONSOLE": "off",  # logs/ has the output, and a bar stays a bar
            "WANDB_INIT_TIMEOUT": "30",  # seconds; training waits meanwhile
            "WANDB_FINISH_TIMEOUT": "60",  # what has not arrived by then stays on disk
            "WANDB_FINISH_TIMEOUT_RAISES": "true",
            "WANDB_ERROR_REPORTING": "false",
        }

    @staticmethod
    def check() -> None:
        import wandb

        if wandb.setup().settings.mode in ("online", "shared") and not wandb.login(prompt=False, verify=False):
            raise InputError(
                "FLOWVAE_TRACKER: wandb has no key; run wandb login, set WANDB_API_KEY, or set WANDB_MODE=offline"
            )

    @staticmethod
    def is_local(environment: Mapping[str, str]) -> bool:
        return environment.get("WANDB_MODE") == "offline" and not environment.get("WANDB_DIR")

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self.run.log(dict(values), step=epoch, commit=True)  # else it waits for the next epoch

    def add(self, values: Mapping[str, Value]) -> None:
        self.run.summary.update(dict(values))

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
