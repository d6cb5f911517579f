"""Credentials are in no log and in no message."""

import io
import logging
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from flowvae.errors import InputError
from pipeline.running.redaction import redact
from pipeline.workflow.children import Children

TOKEN = "t0ken-of-the-remote"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:p@ss@host:80/a.git", "https://***@host:80/a.git"),
        ("at 's3://key:secret@bucket/x'", "at 's3://***@bucket/x'"),
        ("https://ghp_token@github.com/x", "https://***@github.com/x"),
        ("ssh://git@github.com/x and http://host:80/a@b", "ssh://git@github.com/x and http://host:80/a@b"),
        ("http://h/x?a=1&X-Amz-Signature=abc&b=2", "http://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?access_token=abc", "https://h/x?access_token=***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("key AKIAABCDEFGHIJKLMNOP used", "key *** used"),
        ("secret s3cr3t/value here", "secret *** here"),
        ("in a URL s3cr3t%2Fvalue", "in a URL ***"),
        ("epoch 3/5  -ELBO train 100.21, token mode", "epoch 3/5  -ELBO train 100.21, token mode"),
    ],
)
def test_credentials_are_hidden(text, expected):
    environment = {
        "AWS_SECRET_ACCESS_KEY": "s3cr3t/value",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "epoch",
        "X_TOKEN": "",
    }
    assert redact(text, environment) == expected


def test_what_leaves_a_workflow_is_redacted():
    """Also what no DVC command has printed: a problem of the user's, and a traceback."""
    import prefect

    from pipeline.workflow.workflows import collecting_problems

    with collecting_problems() as problems:
        raise InputError(f"first\nhttps://user:{TOKEN}@host/project.git cannot be cloned")
    assert problems == ["first", "https://***@host/project.git cannot be cloned"]
    logger, shown = prefect.logging.get_logger("prefect.engine"), io.StringIO()
    handler = logging.StreamHandler(shown)
    logger.addHandler(handler)
    try:
        raise ValueError(f"https://user:{TOKEN}@host")
    except ValueError:
        logger.exception("%s", f"s3://key:{TOKEN}@bucket")
    finally:
        logger.removeHandler(handler)
    assert "s3://***@bucket" in shown.getvalue() and "ValueError: https://***@host" in shown.getvalue()
    assert TOKEN not in shown.getvalue()


class Refusing(BaseHTTPRequestHandler):
    """A server that answers 401 to everything."""

    def do_GET(self):
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("by_name", [True, False])
def test_a_remote_that_refuses_its_token_does_not_get_it_into_a_log(by_name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_TERMINAL_PROMPT", "0")
    (tmp_path / "dvc.yaml").write_text("stages:\n  a: {cmd: 'echo x > a.txt', outs: [a.txt: {cache: false}]}\n")
    for command in (
        ["git", "init", "--quiet"],
        [sys.executable, "-m", "dvc", "init", "--quiet"],
        [sys.executable, "-m", "dvc", "repro", "--quiet"],
        ["git", "add", "--all"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "--quiet", "-m", "x"],
        [sys.executable, "-m", "dvc", "exp", "save", "--name", "night"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://user:{TOKEN}@127.0.0.1:{server.server_port}/project.git"
        subprocess.run(["git", "remote", "add", "origin", url], check=True)
        lines = []
        with pytest.raises(InputError) as caught:
            Children(threads=1).run(["exp", "push", "--no-cache", "origin" if by_name else url, "night"], lines.append)
        server.shutdown()
    everything = "\n".join([*lines, str(caught.value)])
    assert "Authentication failed for" in everything
    assert by_name or everything.count(f"***@127.0.0.1:{server.server_port}") >= 2  # in DVC's line and in the command
    assert TOKEN not in everything
