"""What people see of a run: the events of a run as a live view on a terminal and as plain lines, and the end."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from project import ROOT, environment
from rich.console import Console
from terminal import COLOUR, HIDE, SEQUENCE, terminal

from pipeline.workflow.watching.board import Board
from pipeline.workflow.watching.estimate import seconds_to_end
from pipeline.workflow.watching.live import LiveView
from pipeline.workflow.watching.plain import SECONDS_BETWEEN_LINES, PlainView
from pipeline.workflow.watching.reading import EventPipe
from pipeline.workflow.watching.summary import first_table, print_results
from pipeline.workflow.watching.text import clean, duration, names

KINDS = {
    "fetch": [],
    "train@a": ["fetch"],
    "train@b": ["fetch"],
    "study@c": ["fetch"],
    "report": ["train@a", "train@b"],
}
PLANNED = {
    "kind": "planned",
    "stages": list(KINDS),
    "dependencies": KINDS,
    "outdated": ["train@a", "train@b", "study@c", "report"],
    "seconds": {"fetch": 2.0, "train@a": 60.0, "report": 5.0},
    "limit": 2,
}
TABLE = """# Title

> **Few data.**

**b is the best.** The rest is for those who read on.

|  variant | posterior, k | −log p(x\\|z) |  NLL | parameters |
| -------: | -----------: | -----------: | ---: | ---------: |
|        a |            – |        71.07 | 90.2 |    849,540 |
|        b |    planar, 4 |        71.36 | 89.1 |    868,456 |

More.
"""


def a_terminal(columns, rows):
    """A console that takes a file for a terminal."""
    return Console(file=io.StringIO(), force_terminal=True, width=columns, height=rows, legacy_windows=False)


def started(stage):
    return {"kind": "started", "stage": stage, "log": f"/logs/{stage}.log"}


def finished(stage, seconds=1.0, result=None, notes=()):
    said = {"result": result, "notes": list(notes)}
    return {"kind": "finished", "stage": stage, "seconds": seconds, "has_run": True, **said}


def failed(stage, reason="no room", lines=("first", "no room")):
    return {"kind": "failed", "stage": stage, "reason": reason, "log": f"/logs/{stage}.log", "lines": list(lines)}


def tick(stage, done, total, unit="step", speed=None, bound=None):
    counts = {"done": done, "total": total, "unit": unit}
    return {"kind": "tick", "stage": stage, **counts, "images_per_second": speed, "negative_elbo": bound}


@pytest.fixture
def clock():
    """A clock that stands still."""
    return SimpleNamespace(now=100.0)


@pytest.fixture
def board(clock):
    return Board(clock=lambda: clock.now)


def test_an_estimate_starts_stages_when_there_is_room_and_what_they_depend_on_has_ended():
    dependencies = {"c": ["a"], "d": ["b", "c"]}
    assert seconds_to_end({"a": 3, "b": 10}, {"c": 4, "d": 5}, dependencies, 2) == 15
    assert seconds_to_end({"a": 3, "b": 10}, {"c": 4, "d": 5}, dependencies, 1) == 19
    assert seconds_to_end({}, {"a": 1, "b": 1, "c": 1}, {}, 2) == 2
    assert seconds_to_end({}, {}, {}, 2) == 0


def test_the_time_left_is_known_as_far_as_stages_have_run_before(board, clock):
    board.apply(PLANNED)
    for stage in ("train@a", "train@b"):
        board.apply(started(stage))
    seconds, unknown = board.seconds_left()
    assert (seconds, unknown) == (65.0, ["study"])  # b as a, which has run before; then the report
    clock.now += 10
    board.apply(tick("train@a", 1, 10))
    clock.now += 2
    board.apply(tick("train@a", 2, 10))
    assert board.running["train@a"].seconds_left(clock.now, 60.0) == pytest.approx(
        16.0
    )  # by its ticks: 2 s for a tenth
    board.apply(finished("train@b", 30.0))
    assert board.usual("train@b") == 30.0 and board.usual("study@c") is None
    board.apply(started("report"))
    board.apply(finished("report", 0.5) | {"has_run": False})
    assert board.usual("report") == 5.0 and board.ran == {"train@b"}


def test_a_stage_that_is_tried_again_has_not_failed(board):
    for event in (PLANNED, started("train@a"), failed("train@a")):
        board.apply(event)
    assert list(board.failed) == ["train@a"] and board.up_to_date == 1
    board.apply(started("train@a"))
    board.apply(finished("train@a"))
    assert not board.failed and board.up_to_date == 2
    board.apply({"kind": "skipped", "stage": "train@b"})
    board.apply({"kind": "blocked", "stages": ["report"]})
    assert (board.up_to_date, list(board.to_come), board.blocked) == (3, ["study@c"], ["report"])


def test_plain_lines(board, clock, capsys):
    """One per event, and one per minute about a long stage."""
    view = PlainView(board)
    events = [
        PLANNED, started("fetch"), finished("fetch", 1.6, notes=["fetch: few data"]), started("train@a"),
        tick("train@a", 1, 10), SECONDS_BETWEEN_LINES + 1, tick("train@a", 6, 10), 1, tick("train@a", 7, 10),
        finished("train@a", 75.0, "-ELBO 94.29 on validation"), started("study@c"),
        failed("study@c", "\x1b[31mno room"),
        {"kind": "note", "text": "the results are elsewhere"}, {"kind": "ended", "problems": ["study@c: no room"]},
    ]  # fmt: skip
    for event in events:
        if isinstance(event, int):
            clock.now += event
        else:
            board.apply(event)
            view.show(event)
    assert capsys.readouterr().out.splitlines() == [
        "5 stages, of which 4 may run, up to 2 at a time; at least 65 s left: no timing yet of study",
        "fetch started",
        "fetch finished in 2 s",
        "fetch: few data",
        "train@a started",
        "train@a at step 6 of 10, 49 s left; at least 65 s left: no timing yet of study in all",
        "train@a finished in 75 s: −ELBO 94.29 on validation",
        "study@c started",
        "study@c failed: no room; its output is in /logs/study@c.log",
        "the results are elsewhere",
    ]


@pytest.mark.parametrize(("columns", "rows"), [(200, 50), (80, 24), (40, 12), (20, 6)])
def test_the_view_fits_the_terminal(board, clock, columns, rows):
    """With more stages than lines, long names, and failures."""
    console = a_terminal(columns, rows)
    view = LiveView(board, console)
    many = [f"train@a-variant-with-a-long-name-{number}" for number in range(40)]
    board.apply(PLANNED | {"stages": [*KINDS, *many], "outdated": [*KINDS, *many], "limit": 40})
    for stage in many[:30]:
        board.apply(started(stage))
    board.apply(tick(many[0], 5, 10, speed=1234.5, bound=94.289))
    board.apply(tick(many[1], 1, 9, "trial"))
    for stage in many[20:30]:
        board.apply(failed(stage))
    lines = "".join(segment.text for segment in console.render(view.region())).splitlines()
    view.close()
    assert len(lines) < rows or rows < 12
    assert max(map(len, lines)) <= columns
    if columns >= 80:
        row = next(line for line in lines if "1,23" in line)
        assert row.split()[-5:-2] == ["50%", "1,234", "94.29"]
        assert any("1/9 trials" in line for line in lines)


def test_words_for_durations_and_lists():
    assert [duration(seconds) for seconds in (0, 48, 99, 720, 11100)] == ["1 s", "48 s", "99 s", "12 min", "3 h 05 min"]
    assert names(["a", "b", "c"], 100) == "a, b, c"
    assert names(["a" * 9, "b" * 9, "c" * 9], 24) == "aaaaaaaaa and 2 more"
    assert names([], 10) == ""
    assert clean("\x1b[2Jred\a\tx") == "red x"


def test_the_table_fits_the_terminal_and_what_is_bold_above_it_is_said():
    _, rows = first_table(TABLE)
    assert rows[0] == ["variant", "posterior, k", "−log p(x|z)", "NLL", "parameters"] and len(rows) == 3
    for columns, headings in (
        (100, rows[0]),
        (48, rows[0][:4]),
        (36, ["variant", "posterior, k", "NLL"]),
        (24, ["variant", "NLL"]),
    ):
        console = a_terminal(columns, 24)
        print_results(TABLE, console)
        lines = SEQUENCE.sub("", console.file.getvalue()).splitlines()
        assert [line.strip() for line in lines[:4]] == ["", "Few data.", "", "b is the best."]
        assert lines[5].split() == " ".join(headings).split()
        assert max(map(len, lines)) <= columns


def test_events_are_read_as_they_were_written():
    """Also where one does not arrive at once."""
    from pipeline.workflow import events

    with EventPipe() as pipe:
        events.connect(pipe.end)
        try:
            events.emit("note", text="a ± b")
            events.emit("skipped", stage="x" * 3000)
            assert pipe.read(1) == [{"kind": "note", "text": "a ± b"}, {"kind": "skipped", "stage": "x" * 3000}]
            assert pipe.read(0) == []
        finally:
            events.pipes.clear()


SCRIPT = """
import json, sys, time
from pathlib import Path
from pipeline.workflow.watching.watcher import Watcher

with Watcher() as watcher:
    for event in json.loads(sys.argv[1]):
        watcher.show([event])
        time.sleep(0.3)
watcher.summarize(1, Path("workflow.log"))
"""
EVENTS = [
    PLANNED, started("fetch"), finished("fetch", notes=["fetch: few data"]), started("train@a"),
    tick("train@a", 5, 10, speed=1234.5, bound=94.289), started("study@c"), failed("study@c"),
    {"kind": "ended", "problems": ["study@c: no room"]},
]  # fmt: skip


def watched(tmp_path, **settings):
    """The terminal on which EVENTS were shown."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(EVENTS)]
    with terminal(tmp_path, command, environment(ROOT, TERM="xterm-256color") | settings) as shown:
        assert shown.wait(60) == 0, shown.lines[-30:]
        assert shown.is_sane()
    return shown


def test_a_terminal_shows_one_view(tmp_path):
    shown = watched(tmp_path)
    assert HIDE in shown.text and COLOUR.search(shown.text)
    said = "\n".join(shown.lines)
    for words in ("✓ fetch  1 s", "2 running", "1,234", "94.29", "✗ study@c failed: no room", "first", "1 failed"):
        assert words in said
    assert shown.lines[-2:] == ["workflow: study@c: no room", "output of study@c: /logs/study@c.log"]


def test_no_color_is_respected(tmp_path):
    shown = watched(tmp_path, NO_COLOR="1")
    assert HIDE in shown.text and not COLOUR.search(shown.text)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(tmp_path):
    shown = watched(tmp_path, TERM="dumb")
    assert "\x1b" not in shown.text
    assert shown.lines[1] == "fetch started" and len(shown.lines) == 9
