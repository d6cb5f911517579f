"""The site that `make docs` builds: it is complete, warns of nothing, and requests nothing from the network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from documents import read
from project import ROOT

import flowvae
from flowvae import datasets

INDEX = ROOT / "docs/index.md"
FOLDERS = (".", "docs", "infra", "benchmarks")
PAGES = [path for folder in FOLDERS for path in (ROOT / folder).glob("*.md")] + [ROOT / "reports/results.md"]
LOADING = {"src", "srcset", "data", "poster"}  # attributes whose files a browser fetches
REMOTE = re.compile(r"^\s*(https?:)?//")
needs_sphinx = pytest.mark.skipif(
    not all(map(find_spec, ("sphinx", "furo", "myst_parser"))), reason="needs make .venv/installed-docs"
)


def navigation() -> set[Path]:
    """The pages in the navigation."""
    entries = [
        line
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", read(INDEX), re.MULTILINE | re.DOTALL)
        for line in tree.splitlines()
        if not line.startswith(":")
    ]
    names = [re.sub(r".*<(.*)>$", r"\1", entry) for entry in entries]
    patterns = [name[1:] if name.startswith("/") else f"docs/{name}" for name in names]
    return {path for pattern in patterns for path in ROOT.glob(f"{pattern}.md")}


def test_every_page_is_in_the_navigation():
    assert navigation() == {*PAGES} - {INDEX}


def test_the_first_page_leads_to_every_page_of_the_folder():
    linked = {INDEX.parent / name for name in re.findall(r"\]\(([\w-]+\.md)\)", read(INDEX))}
    assert linked == {*INDEX.parent.glob("*.md")} - {INDEX}


def documented(module: str) -> set[str]:
    """Names in the reference that belong to a module."""
    names, current = set(), ""
    for directive, name in re.findall(r"^\.\. (\w+):: ([\w.]+)", read(ROOT / "docs/reference.md"), re.MULTILINE):
        if directive == "currentmodule":
            current = name
        elif current == module:
            names.add(name)
    return names


def test_the_reference_has_everything_public():
    assert documented("flowvae") == set(flowvae.PUBLIC)
    assert documented("flowvae.datasets") == set(datasets.__all__)


@pytest.mark.parametrize("name", [name for name in flowvae.PUBLIC if hasattr(getattr(flowvae, name), "model_fields")])
def test_every_setting_is_described(name):
    """Except for those that have one possible value, and the name of the family in the base of all families."""
    settings = getattr(flowvae, name)
    types = {key: field.annotation for key, field in settings.model_fields.items() if key != "flow"}
    free = {key for key, value in types.items() if get_origin(value) is not Literal or len(get_args(value)) > 1}
    described = re.findall(r"^ +(\w+(?:, \w+)*): ", settings.__doc__ or "", re.MULTILINE)
    assert {key for keys in described for key in keys.split(", ")} >= free


class Page(HTMLParser):
    """What a page of the site loads, links to, and names for links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.loads, self.links, self.ids, self.tags = [], [], set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = {name: value for name, value in attrs if value}
        self.tags.add(tag)
        self.ids |= {values[name] for name in ("id",) if name in values}
        self.loads += [value for name, value in values.items() if name in LOADING]
        self.loads += [values["href"]] if tag == "link" and "href" in values else []
        self.links += [values["href"]] if tag == "a" and "href" in values else []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built by the command of the Makefile into another folder."""
    folder = tmp_path_factory.mktemp("site")
    recipe = re.search(r"^docs: .*\n\t@\$\(BIN\)/python (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    words = recipe.replace("build/doctrees", str(folder / "doctrees")).replace("build/docs", str(folder / "html"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    command = [sys.executable, *words.split()]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    return folder / "html"


@needs_sphinx
@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_complete(site):
    expected = {path.relative_to(ROOT).with_suffix(".html") for path in PAGES}
    assert expected <= {path.relative_to(site) for path in site.rglob("*.html")}
    (link,) = Page(site / "index.html").links
    assert (site / link).is_file()
    assert "math" in Page(site / "docs/formulas.html").tags


@needs_sphinx
@pytest.mark.slow
def test_the_site_loads_nothing_from_the_network(site):
    pages = [Page(path) for path in site.rglob("*.html")]
    assert any(page.loads for page in pages)
    assert [load for page in pages for load in page.loads if REMOTE.match(load)] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    addresses = re.findall(r"(?:url\(|@import )['\"]?([^)'\"]*)", styles)
    assert styles and not [address for address in addresses if REMOTE.match(address)]


@needs_sphinx
@pytest.mark.slow
def test_links_within_the_site_lead_somewhere(site):
    """But for the report, which is a download: beside it in a project is a figure of times, which is not in git."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    for page in (page for path, page in pages.items() if "_downloads" not in path.parts):
        for link in page.links:
            if not re.match(r"\w+:", link):
                name, _, anchor = link.partition("#")
                target = (page.path.parent / name).resolve() if name else page.path
                assert target.is_file(), f"{page.path}: {link}"
                assert not anchor or target not in pages or anchor in pages[target].ids, f"{page.path}: {link}"


@needs_sphinx
@pytest.mark.slow
def test_docstrings_are_shown_as_they_are_meant(site):
    """Stars, bars and single letters stay, and indented formulas are blocks."""
    text = (site / "docs/reference.html").read_text()
    words = re.sub(r"<[^>]+>", "", text)
    assert "shape (*sample_shape, batch, D)" in words
    assert "q(z|x) for images x" in words
    assert "num_images – N." in words
    formulas = [re.sub(r"<[^>]+>", "", block).strip() for block in re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)]
    assert "log q_K(z_K) = log q_0(z_0) - sum_k ln|det df_k/dz_{k-1}|" in formulas
