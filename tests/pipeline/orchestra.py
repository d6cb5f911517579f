"""A project that `make prefect` has brought up: a real Prefect server and worker on loopback, ended by the tests."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import requests
from killing import NO_PROXY, free_port, kill_group
from project import ROOT, command, environment
from requests.adapters import HTTPAdapter, Retry

PATIENCE = 180  # seconds, far above what anything here takes
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Orchestra:
    """Prefect over the project in a folder.

    Args:
        project: with infra/prefect in it.
        webhook: where failures are told.
    """

    def __init__(self, project: Path, webhook: str) -> None:
        self.project, self.port = project, free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.session = requests.Session()
        self.session.trust_env = False
        busy = Retry(10, backoff_factor=0.2, status_forcelist=[503], allowed_methods=None)  # as Prefect's client does
        self.session.mount("http://", HTTPAdapter(max_retries=busy))
        self.settings = NO_PROXY | {
            "PREFECT_HOME": str(project.parent / f"{project.name}.prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_CLI_PROMPT": "false",
            "FLOWVAE_PREFECT_PORT": str(self.port),
            "FLOWVAE_WEBHOOK_URL": webhook,
            "FLOWVAE_CHECKPOINT_EVERY": "20 steps",
        }

    @contextmanager
    def up(self):
        """Until the block ends; the process that has brought it up."""
        output = self.project.parent / f"{self.project.name}.up.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "infra/prefect/up.py"], cwd=self.project,
                env=environment(self.project, **self.settings),
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            self.wait_for(lambda: "is up" in output.read_text() or process.poll() is not None)
            assert process.poll() is None, output.read_text()
            yield process
            if process.poll() is None:
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0, output.read_text()
                assert not psutil.wait_procs(family, 10)[1], "something was left behind"
        finally:
            kill_group(process)

    @contextmanager
    def serving(self, repository: Path):
        """By the commands of infra/README.md: each run in a clone, the worker in an empty folder, which this yields."""
        desk = self.project.parent / "desk"
        desk.mkdir()
        self.settings["FLOWVAE_REPOSITORY"] = str(repository)
        with ExitStack() as stack:
            self._start(stack, self.project, "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
            self.wait_for_server()
            self.prefect("work-pool", "create", "flowvae", "--type", "process")
            self.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect/prefect.yaml")
            self._start(stack, desk, "worker", "start", "--pool", "flowvae")
            yield desk

    def _start(self, stack: ExitStack, folder: Path, *arguments: str) -> None:
        """A command of Prefect's in a folder, which is ended with the stack."""
        with (self.project.parent / f"{arguments[0]}.txt").open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments], cwd=folder, env=environment(folder, **self.settings),
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        stack.callback(kill_group, process)

    def prefect(self, *arguments: str) -> str:
        return command(self.project, sys.executable, "-m", "prefect", *arguments, **self.settings).stdout

    def post(self, path: str, **content):
        answer = self.session.post(f"{self.api}{path}", json=content, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def trigger(self, deployment: str, **parameters) -> str:
        """The id of a new run."""
        found = self.get(f"/deployments/name/{deployment}")
        return self.post(f"/deployments/{found['id']}/create_flow_run", parameters=parameters)["id"]

    def get(self, path: str):
        answer = self.session.get(f"{self.api}{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def state(self, run: str) -> dict:
        return self.get(f"/flow_runs/{run}")["state"]

    def ended(self, run: str) -> dict:
        """The run when it has ended."""
        self.wait_for(lambda: self.state(run)["type"] in ENDED)
        return self.get(f"/flow_runs/{run}")

    def run(self, deployment: str, **parameters) -> dict:
        return self.ended(self.trigger(deployment, **parameters))

    def tasks(self, run: str) -> dict[str, dict]:
        """The tasks of a run that has ended, by name; their states arrive as events."""
        found = {}

        def are_final():
            tasks = self.post("/task_runs/filter", flow_runs={"id": {"any_": [run]}}, limit=200)
            found.update({task["name"]: task for task in tasks})
            return tasks and all(task["state"]["name"] not in ("Pending", "Running") for task in tasks)

        self.wait_for(are_final, 30)
        return found

    def states(self, run: str) -> dict[str, str]:
        return {name: task["state"]["name"] for name, task in self.tasks(run).items()}

    def log(self, run: str) -> str:
        found = self.post("/logs/filter", logs={"flow_run_id": {"any_": [run]}}, limit=200, sort="TIMESTAMP_ASC")
        return "\n".join(line["message"] for line in found)

    def processes(self) -> list[psutil.Process]:
        """Those that work in the project, but for server and worker."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            line = " ".join(process.info["cmdline"] or ())
            if process.info["cwd"] == str(self.project) and any(word in line for word in (" dvc ", "pipeline train")):
                found.append(process)
        return found

    def wait_for_server(self) -> None:
        def answers():
            with suppress(requests.ConnectionError):
                return self.get("/health")

        self.wait_for(answers)

    def wait_for(self, condition, patience: int = PATIENCE) -> None:
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < patience, "waited in vain"
            time.sleep(0.3)


def with_infra(project: Path) -> Path:
    """The project with what brings Prefect up."""
    target = project / "infra"
    target.mkdir()
    os.symlink(ROOT / "infra/prefect", target / "prefect")
    return project
