"""A real Prefect server and worker on loopback, as `make prefect` runs them for a project."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil
import requests
from killing import NO_PROXY, free_port, kill_group, still_running
from project import ROOT, command, environment
from requests.adapters import HTTPAdapter, Retry

from pipeline.workflow.settings import guarded, kept_login

PATIENCE = 180  # seconds, far longer than anything here takes
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Orchestra:
    """Prefect for the project in a folder.

    Args:
        project: its folder, with infra/prefect in it.
        webhook: address to which failures are sent.
    """

    def __init__(self, project: Path, webhook: str) -> None:
        self.project, self.port = project, free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.session = requests.Session()
        self.session.trust_env = False
        busy = Retry(10, backoff_factor=0.2, status_forcelist=[503], allowed_methods=None)  # like Prefect's client
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
        """Run infra/prefect/up.py until the block ends, and yield its process."""
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
            self.log_in((Path(self.settings["PREFECT_HOME"]) / "login").read_text().strip())
            yield process
            if process.poll() is None:
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0, output.read_text()
                assert not still_running(family, 10), "not all processes have ended"
        finally:
            kill_group(process)

    @contextmanager
    def serving(self, repository: Path):
        """Run server and worker with the commands of infra/README.md, so that each run works in a clone.

        Yields:
            The worker's folder, which is empty at first.
        """
        folder = self.project.parent / "worker"
        folder.mkdir()
        login = kept_login(self.project.parent / "login")
        self.settings |= guarded(self.api.removesuffix("/api"), login) | {"FLOWVAE_REPOSITORY": str(repository)}
        self.log_in(login)
        with ExitStack() as stack:
            self._start(stack, self.project, "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
            self.wait_for_server()
            self.prefect("work-pool", "create", "flowvae", "--type", "process")
            self.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect/prefect.yaml")
            self._start(stack, folder, "worker", "start", "--pool", "flowvae")
            yield folder

    def _start(self, stack: ExitStack, folder: Path, *arguments: str) -> None:
        """Start a Prefect command in a folder; it is killed when the stack is closed."""
        with (self.project.parent / f"{arguments[0]}.txt").open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments], cwd=folder, env=environment(folder, **self.settings),
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        stack.callback(kill_group, process)

    def log_in(self, login: str) -> None:
        """Use the login of the server from now on, in requests and in commands."""
        self.session.auth = tuple(login.split(":", 1))
        self.settings["PREFECT_API_AUTH_STRING"] = login

    def prefect(self, *arguments: str) -> str:
        """Run a Prefect command, and return its output."""
        return command(self.project, sys.executable, "-m", "prefect", *arguments, **self.settings).stdout

    def post(self, path: str, **content):
        token = self.session.get(f"{self.api}/csrf-token?client=tests", timeout=60)
        headers = {"Prefect-Csrf-Client": "tests", "Prefect-Csrf-Token": token.json()["token"]} if token.ok else {}
        answer = self.session.post(f"{self.api}{path}", json=content, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def trigger(self, deployment: str, scheduled: datetime | None = None, **parameters) -> str:
        """Start a run of a deployment, by default one that is scheduled for now, and return its id."""
        deployment_id = self.get(f"/deployments/name/{deployment}")["id"]
        content = {"parameters": parameters}
        if scheduled:
            details = {"scheduled_time": scheduled.isoformat()}
            content["state"] = {"type": "SCHEDULED", "state_details": details}
        return self.post(f"/deployments/{deployment_id}/create_flow_run", **content)["id"]

    def get(self, path: str):
        answer = self.session.get(f"{self.api}{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def state(self, run: str) -> dict:
        return self.get(f"/flow_runs/{run}")["state"]

    def ended(self, run: str) -> dict:
        """Wait until a run has ended, and return it."""
        self.wait_for(lambda: self.state(run)["type"] in ENDED)
        return self.get(f"/flow_runs/{run}")

    def run(self, deployment: str, **parameters) -> dict:
        """Start a run of a deployment, wait until it has ended, and return it."""
        return self.ended(self.trigger(deployment, **parameters))

    def tasks(self, run: str) -> dict[str, dict]:
        """The tasks of a run that has ended, by name. Their states arrive later, as events."""
        by_name = {}

        def are_final():
            tasks = self.post("/task_runs/filter", flow_runs={"id": {"any_": [run]}}, limit=200)
            by_name.update({task["name"]: task for task in tasks})
            return tasks and all(task["state"]["name"] not in ("Pending", "Running") for task in tasks)

        self.wait_for(are_final, 30)
        return by_name

    def states(self, run: str) -> dict[str, str]:
        """The names of the states of a run's tasks, by the names of the tasks."""
        return {name: task["state"]["name"] for name, task in self.tasks(run).items()}

    def log(self, run: str) -> str:
        lines = self.post("/logs/filter", logs={"flow_run_id": {"any_": [run]}}, limit=200, sort="TIMESTAMP_ASC")
        return "\n".join(line["message"] for line in lines)

    def processes(self) -> list[psutil.Process]:
        """The processes of stages that run in the project."""
        stages = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            line = " ".join(process.info["cmdline"] or ())
            if process.info["cwd"] == str(self.project) and any(word in line for word in (" dvc ", "pipeline train")):
                stages.append(process)
        return stages

    def wait_for_server(self) -> None:
        def answers():
            with suppress(requests.ConnectionError):
                return self.get("/health")

        self.wait_for(answers)

    def wait_for(self, condition, patience: int = PATIENCE) -> None:
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < patience, f"the condition was not met in {patience} s"
            time.sleep(0.3)


def with_infra(project: Path) -> Path:
    """The project, to which infra/prefect is added."""
    target = project / "infra"
    target.mkdir()
    os.symlink(ROOT / "infra/prefect", target / "prefect")
    return project
