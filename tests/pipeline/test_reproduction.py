"""Commands of DVC's as children: they end with their parent, and wait for one another."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from flowvae.errors import InputError
from pipeline.reproduction import LEASH, Children, reason

SLEEPERS = (
    "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True); print('up', flush=True); "
)
MEEK = SLEEPERS + "import time; time.sleep(600)"  # ends at once when told to, and leaves its child behind
STUBBORN = SLEEPERS + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.run(['sleep', '600'])"


def wait_until(condition):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 30
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["close", "kill"])
@pytest.mark.parametrize(("command", "size"), [(MEEK, 3), (STUBBORN, 4)], ids=["meek", "stubborn"])
def test_a_leash_ends_all_that_the_command_has_started(how, command, size):
    """In whatever session, and whether or not it listens to SIGTERM; also when the parent is killed."""
    holder = (
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, {str(LEASH)!r}, sys.executable, '-c', "
        f"{command!r}], stdin=subprocess.PIPE, start_new_session=True); sys.stdin.read(); p.stdin.close(); p.wait()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holder], text=True, **pipes) as parent:
        assert parent.stdout.readline() == "up\n"
        wait_until(lambda: len(psutil.Process(parent.pid).children(recursive=True)) == size)
        family = psutil.Process(parent.pid).children(recursive=True)
        if how == "close":
            parent.stdin.close()
        else:
            os.kill(parent.pid, signal.SIGKILL)
        assert not psutil.wait_procs(family, 10)[1]


def test_a_leash_gives_the_code_of_the_command():
    ran = subprocess.run([sys.executable, str(LEASH), "sh", "-c", "exit 7"], stdin=subprocess.PIPE, check=False)
    assert ran.returncode == 7


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A DVC project with a stage that works and one that does not."""
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], check=True)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  good: {cmd: 'echo fine; sleep 2; echo x > good.txt', outs: [good.txt]}\n"
        "  bad: {cmd: 'echo the disk is on fire; exit 3'}\n"
    )
    return tmp_path


def test_lines_are_heard_and_a_failure_says_why(tiny):
    heard = []
    Children(threads=1).run(["repro", "--single-item", "good"], heard.append)
    assert "fine" in heard
    with pytest.raises(InputError, match="dvc repro --single-item bad ended with code 255: the disk is on fire"):
        Children(threads=1).run(["repro", "--single-item", "bad"], heard.append)


def test_a_stage_that_another_process_is_at_is_waited_for(tiny):
    other = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "good"], stdout=subprocess.PIPE, text=True)
    assert any(line == "fine\n" for line in other.stdout)
    heard = []
    Children(threads=1).run(["repro", "--single-item", "good"], heard.append)
    assert any("in the way; again in" in line for line in heard)
    assert other.wait(30) == 0
    other.stdout.close()


def test_what_is_ended_is_not_tried_again(tiny):
    work = Children(threads=1)
    threading.Timer(2, work.end).start()
    (tiny / "dvc.yaml").write_text("stages:\n  long: {cmd: 'sleep 600; echo x > good.txt', outs: [good.txt]}\n")
    started = time.monotonic()
    with pytest.raises(InputError, match="was ended"):
        work.run(["repro", "--single-item", "long"], lambda line: None)
    assert time.monotonic() - started < 30
    with pytest.raises(InputError, match="was ended"):
        work.run(["repro", "--single-item", "long"], lambda line: None)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["train: no data", "ERROR: failed to reproduce 'train'"], "train: no data"),
        (["ERROR: no remote"], "no remote"),
        ([], "it said nothing"),
    ],
)
def test_the_reason_of_a_failure(lines, expected):
    assert reason(lines) == expected
