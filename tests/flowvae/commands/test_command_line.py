"""The command line as a whole: help, mistakes, completion, what it imports, and where it passes work on."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import flowvae
from flowvae.commands.app import app
from flowvae.commands.projects import QUIET

ROOT = Path(__file__).parents[3]
COMMANDS = (
    *("info", "sample", "reconstruct", "interpolate", "encode", "score", "impute", "export", "push"),
    *("run", "preset", "submit", "study", "status"),
)
HEAVY = ("torch", "numpy", "PIL", "safetensors", "rich", "flowvae.model", "flowvae.config")
IMPORTED = f"""
import json, runpy, sys
try:
    runpy.run_module("flowvae", run_name="__main__")
except SystemExit:
    print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""


# A shell starts background processes with Ctrl-C ignored, and so would these tests.
ON_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from flowvae.commands.app import main
main()
"""


def flowvae_command(*arguments, folder=ROOT, **variables):
    """Run `python -m flowvae` as users do."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | variables
    command = [sys.executable, "-m", "flowvae", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["sample", "--help"], ["run", "--help"], ["sample"], ["--version"]]
)
def test_help_and_mistakes_import_nothing_heavy(arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORTED, *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(ran.stderr.splitlines()[-1]) == []


def test_help_lists_the_commands():
    for arguments in ([], ["--help"], ["-h"]):
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code == 0
        assert re.findall(r"^  ([a-z]+)  ", ran.stdout.partition("Commands:")[2], re.MULTILINE) == list(COMMANDS)
        assert "..." not in ran.stdout.partition("Commands:")[2], "a first sentence is too long for the list"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples_that_are_understood(command):
    ran = CliRunner().invoke(app, [command, "--help"])
    assert ran.exit_code == 0
    examples = re.findall(r"^    flowvae (.*)$", ran.stdout, re.MULTILINE)
    assert examples and all(example.split()[0] == command for example in examples)
    options = {word for example in examples for word in example.split() if word.startswith("-")}
    known = set(
        re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", ran.stdout.partition("Options:")[2].partition("Examples:")[0])
    )
    assert options - {"--detach"} <= known  # which is passed on


def test_version():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"flowvae {flowvae.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["sampel"], "Did you mean 'sample'?"),
        (["sample"], "Missing argument 'MODEL'"),
        (["sample", ".", "--bogus"], "No such option: --bogus"),
        (["sample", "nowhere", "-o", "x.png"], "'nowhere' does not exist"),
        (["sample", ".", "-o", "x.png", "-n", "0"], "--number"),
        (["interpolate", ".", ".", "-o", "x.png", "--path", "winding"], "spherical"),
        (["preset"], "Missing argument 'NAME'"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, expected):
    ran = flowvae_command(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("flowvae: ") and expected in line and "--help)" in line


def test_shells_complete_commands():
    variables = {"_FLOWVAE_COMPLETE": "complete_bash", "COMP_WORDS": "flowvae rec", "COMP_CWORD": "1"}
    assert flowvae_command(**variables).stdout.split() == ["reconstruct"]
    assert "--install-completion" in flowvae_command("--help").stdout


def test_outside_of_a_project_is_one_line(tmp_path):
    for command in (["run"], ["preset", "five-minutes"], ["submit"], ["study", "study-larochelle"], ["status"]):
        ran = flowvae_command(*command, folder=tmp_path)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr == (
            f"flowvae: {tmp_path}: not a project, it has no dvc.yaml, params.yaml, pipeline; change to a clone of the "
            "project\n"
        )


ECHO = """
import json, os, sys
print(json.dumps([sys.argv[1:], os.environ["DVC_NO_ANALYTICS"], sys.executable]))
sys.exit(7)
"""


@pytest.fixture
def project(tmp_path):
    """A project whose modules print what they are called with."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).touch()
    for module in (
        "__init__",
        "workflow/__init__",
        "workflow/__main__",
        "submit/__init__",
        "submit/__main__",
        "rows/__init__",
        "rows/__main__",
        "preset",
        "status",
    ):
        path = tmp_path / "pipeline" / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if module.endswith("__init__") else ECHO)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        (["run"], []),
        (["run", "train@vae-0", "-S", "training.epochs=2"], ["-S", "training.epochs=2", "train@vae-0"]),
        (["run", "--set-param", "a=1", "-S", "b=2"], ["-S", "a=1", "-S", "b=2"]),
        (["run", "--concurrency", "1", "train", "--pull"], ["--concurrency", "1", "train", "--pull"]),
        (["preset", "five-minutes"], ["five-minutes"]),
        (["submit", "vae", "--address", "http://x", "--detach"], ["vae", "--address", "http://x", "--detach"]),
        (["submit", "--attach", "job"], ["--attach", "job"]),
        (["study", "study-tiny", "--status"], ["study-tiny", "--status"]),
        (["status"], []),
    ],
)
def test_commands_in_a_project_are_passed_on(project, arguments, passed_on):
    """To this Python, in this folder, with the exit code of the module."""
    ran = flowvae_command(*arguments, folder=project, PYTHONPATH=str(ROOT))
    assert ran.returncode == 7, ran.stderr
    assert json.loads(ran.stdout) == [passed_on, "1", sys.executable]


def test_settings_of_the_environment_are_those_of_the_makefile():
    exported = re.findall(r"^export (\w+) = (\w+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert dict(exported) == QUIET


def test_packages_that_the_pipeline_needs_are_named(project):
    """Where only the library is installed; here in a Python without its packages."""
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, *{sys.path!r}]; sys.modules['dvc'] = None"
    code += "; import importlib.util; find = importlib.util.find_spec"
    code += "; importlib.util.find_spec = lambda name: None if name == 'dvc' else find(name)"
    code += "; from flowvae.commands.app import main; sys.argv = ['flowvae', 'status']; main()"
    ran = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("flowvae: dvc: not installed; pip install -e '.[pipeline]'")


def test_ctrl_c_is_one_line(models, tmp_path):
    """While it reads an image, which comes through a pipe."""
    os.mkfifo(tmp_path / "image.png")
    arguments = ["score", str(models / "bits"), str(tmp_path / "image.png"), "-o", str(tmp_path / "scores.csv")]
    command = [sys.executable, "-c", ON_CTRL_C, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process,
        (tmp_path / "image.png").open("wb"),  # opens once the command has opened the other end
    ):
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "flowvae: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


def test_the_script_is_declared():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^\[project.scripts\]\nflowvae = "flowvae.commands.app:main"$', text, re.MULTILINE)
