"""Profile of one training step."""

from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.files import write_text

WARM_STEPS = 10


class StepProfiler:
    """Profiles one step after the first ones have warmed up.

    Args:
        logs: folder for NAME.profile.json, a trace for Perfetto, and NAME.profile.txt, a table of operations.
        name: of the run.
    """

    def __init__(self, logs: Path, name: str) -> None:
        self.trace, self.table = logs / f"{name}.profile.json", logs / f"{name}.profile.txt"
        self.calls = 0
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.profile = torch.profiler.profile(activities=activities, record_shapes=True)

    def then(self, on_step: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """A callback that profiles the step after WARM_STEPS and calls `on_step` after each."""

        def called(step: int, num_steps: int) -> None:
            self.calls += 1
            if self.calls == WARM_STEPS + 1:
                self.profile.stop()
                self.write()
            if self.calls == WARM_STEPS:
                self.profile.start()
            on_step(step, num_steps)

        return called

    def write(self) -> None:
        """Write the table and the trace."""
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        write_text(self.table, self.profile.key_averages().table(sort_by=order, row_limit=30))
        self.profile.export_chrome_trace(str(self.trace))
        print(f"train: profile of one step in {self.table} and {self.trace}", flush=True)
