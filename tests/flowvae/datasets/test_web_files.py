"""Downloads by address, from a real server on this machine."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from examples import data_config

from flowvae.datasets import frey_faces, web_files
from flowvae.datasets.entry import of_web_file
from flowvae.datasets.registry import DATASETS
from flowvae.datasets.web_files import WebFile, download_file
from flowvae.errors import InputError

CONTENT = bytes(range(256)) * 9000


class Server(BaseHTTPRequestHandler):
    """Sends CONTENT: whole, cut off, or nothing at all."""

    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/silent":
            time.sleep(1)
        else:
            self.wfile.write(CONTENT[: 1000 if self.path == "/cut" else None])

    def log_message(self, *arguments):
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def file_at(address, content=CONTENT):
    return WebFile("some/file.mat", address, hashlib.md5(content).hexdigest())


def test_a_file_is_downloaded(address, tmp_path):
    download_file(file_at(f"{address}/whole"), tmp_path)
    assert (tmp_path / "some/file.mat").read_bytes() == CONTENT


def test_a_data_set_is_downloaded_where_it_is_searched(address, tmp_path):
    data, file = data_config("frey-faces"), file_at(f"{address}/whole")._replace(path=frey_faces.FILE.path)
    entry = of_web_file(frey_faces.TITLE, file, (1, 28, 20), frey_faces.read_frey_faces)
    assert not entry.is_in(tmp_path, data)
    entry.download(tmp_path, data)
    assert entry.is_in(tmp_path, data)
    assert entry.files(data) == DATASETS["frey-faces"].files(data)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("missing", "HTTP Error 404: Not Found"),
        ("cut", "sent a file with another checksum"),
        ("silent", "timed out"),
        ("other", "sent a file with another checksum"),
    ],
)
def test_nothing_remains_of_a_download_that_failed(address, tmp_path, monkeypatch, path, says):
    monkeypatch.setattr(web_files, "TIMEOUT", 0.3)
    file = file_at(f"{address}/{path}", b"other" if path == "other" else CONTENT)
    with pytest.raises(InputError, match=says) as caught:
        download_file(file, tmp_path)
    assert str(caught.value).startswith(f"{address}/{path}: ") and "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_server_that_is_gone(tmp_path):
    with pytest.raises(InputError, match="refused"):
        download_file(file_at("http://127.0.0.1:9/x"), tmp_path)
