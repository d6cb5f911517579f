"""DVC commands as child processes: they end with their parent, and wait for each other."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from killing import still_running

from flowvae.errors import InputError
from pipeline.workflow.children import LEASH, Children, TimeLimitError, reason

SLEEPERS = (
    "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True); print('up', flush=True); "
)
COMPLIANT = SLEEPERS + "import time; time.sleep(600)"  # ends at once on SIGTERM, and leaves its child behind
STUBBORN = SLEEPERS + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.run(['sleep', '600'])"


def wait_until(condition):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 30
        time.sleep(0.1)


@pytest.mark.parametrize("ending", ["close", "kill"])
@pytest.mark.parametrize(("command", "size"), [(COMPLIANT, 3), (STUBBORN, 4)], ids=["compliant", "stubborn"])
def test_a_leash_ends_everything_that_the_command_has_started(ending, command, size):
    """In whatever session it is, and whether or not it ignores SIGTERM; also if the parent is killed."""
    holder = (
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, {str(LEASH)!r}, sys.executable, '-c', "
        f"{command!r}], stdin=subprocess.PIPE, start_new_session=True); sys.stdin.read(); p.stdin.close(); p.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout.readline() == "up\n"
        wait_until(lambda: len(psutil.Process(parent.pid).children(recursive=True)) == size)
        family = psutil.Process(parent.pid).children(recursive=True)
        if ending == "close":
            parent.stdin.close()
        else:
            os.kill(parent.pid, signal.SIGKILL)
        assert not still_running(family, 10)


def test_a_leash_returns_the_exit_code_of_the_command():
    command = [sys.executable, str(LEASH), "sh", "-c", "exit 7"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:  # subprocess.run would close the leash at once
        assert process.wait(30) == 7


def test_a_command_that_a_leash_has_terminated_never_counts_as_a_success():
    """Two waited for it, and where the other took its exit code, the leash returned 0: in one case of six."""
    for _ in range(12):
        with subprocess.Popen([sys.executable, str(LEASH), "sleep", "600"], stdin=subprocess.PIPE) as process:
            time.sleep(0.3)
            process.stdin.close()
            assert process.wait(30) != 0


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A DVC project with a stage that succeeds and one that fails."""
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], check=True)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  good: {cmd: 'echo fine; sleep 2; echo x > good.txt', outs: [good.txt]}\n"
        "  bad: {cmd: 'echo the disk is on fire; exit 3'}\n"
    )
    return tmp_path


def test_output_is_passed_on_and_a_failure_has_its_reason(tiny):
    lines = []
    Children(threads=1).run(["repro", "--single-item", "good"], lines.append)
    assert "fine" in lines
    with pytest.raises(InputError, match="dvc repro --single-item bad failed with exit code 255: the disk is on fire"):
        Children(threads=1).run(["repro", "--single-item", "bad"], lines.append)


def test_a_stage_that_another_process_runs_is_waited_for(tiny):
    other = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "good"], stdout=subprocess.PIPE, text=True)
    assert any(line == "fine\n" for line in other.stdout)
    lines = []
    Children(threads=1).run(["repro", "--single-item", "good"], lines.append)
    assert any("another DVC process holds a lock; trying again in" in line for line in lines)
    assert other.wait(30) == 0
    other.stdout.close()


def test_a_stopped_command_is_not_retried(tiny):
    children = Children(threads=1)
    threading.Timer(2, children.stop).start()
    (tiny / "dvc.yaml").write_text("stages:\n  long: {cmd: 'sleep 600; echo x > good.txt', outs: [good.txt]}\n")
    started = time.monotonic()
    with pytest.raises(InputError, match="was stopped"):
        children.run(["repro", "--single-item", "long"], lambda line: None)
    assert time.monotonic() - started < 30
    with pytest.raises(InputError, match="was stopped"):
        children.run(["repro", "--single-item", "long"], lambda line: None)


def test_a_command_that_takes_too_long_is_terminated_with_all_that_it_has_started(tiny):
    (tiny / "dvc.yaml").write_text("stages:\n  long: {cmd: 'touch begun.txt; sleep 601 & sleep 602'}\n")
    started = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"long was terminated after 5 s, its limit \(stage_timeout\)"):
        Children(threads=1, limit=5).run(["repro", "--single-item", "long"], lambda line: None)
    assert 5 <= time.monotonic() - started < 15
    assert (tiny / "begun.txt").exists()
    sleepers = [process for process in psutil.process_iter(["cmdline", "cwd"]) if process.info["cwd"] == str(tiny)]
    assert [process for process in sleepers if "sleep" in (process.info["cmdline"] or ())] == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["train: no data", "ERROR: failed to reproduce 'train'"], "train: no data"),
        (["ERROR: no remote"], "no remote"),
        ([], "it printed nothing"),
    ],
)
def test_the_reason_of_a_failure(lines, expected):
    assert reason(lines) == expected
