"""The page of a run in a clone can be opened when the clone is gone: infra/prefect/prefect.yaml on a real server."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from orchestra import Orchestra, with_infra
from project import command, commit, dvc


@pytest.mark.slow
def test_the_page_of_a_run_in_a_clone(copy, tmp_path):
    """With FLOWVAE_STORAGE it is kept there; without it, the Markdown page is all that remains, and no link is dead."""
    dvc(copy, "remote", "add", "--default", "store", str(tmp_path / "store"))
    commit(copy)
    dvc(copy, "push", "--run-cache")
    origin = tmp_path / "origin.git"
    command(copy, "git", "clone", "--quiet", "--bare", str(copy), str(origin))
    orchestra = Orchestra(with_infra(copy), webhook="")
    orchestra.settings["FLOWVAE_STORAGE"] = str(tmp_path / "a storage")
    with orchestra.serving(origin) as worker_folder:
        kept = run(orchestra)
        without = run(orchestra, FLOWVAE_STORAGE="")
        broken = run(orchestra, FLOWVAE_STORAGE="relative/folder")
        assert not list(worker_folder.iterdir())
        pages = artifacts(orchestra, kept)
        assert "data:image/png;base64," in pages["results"]
        assert artifacts(orchestra, without) == {"results": pages["results"]}
        assert artifacts(orchestra, broken) == {"results": pages["results"]}
        assert "index.html is not stored: FLOWVAE_STORAGE: expected" in orchestra.log(broken["id"])
    link = pages["index"].partition("](")[2].removesuffix(")")
    page = Path(unquote(urlsplit(link).path))
    assert page.is_relative_to(tmp_path / "a storage/reports") and kept["name"] in page.parent.name
    assert page.read_bytes() == (copy / "reports/index.html").read_bytes()


def run(orchestra, **changes):
    """A run that finds everything up to date."""
    deployment = orchestra.get("/deployments/name/reproduce/on-demand")["id"]
    content = {"parameters": {"pull": True}, "job_variables": {"env": changes}}
    ended = orchestra.ended(orchestra.post(f"/deployments/{deployment}/create_flow_run", **content)["id"])
    assert ended["state"]["type"] == "COMPLETED", orchestra.log(ended["id"])
    return ended


def artifacts(orchestra, run):
    """The pages of a run, by key."""
    found = orchestra.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    return {artifact["key"]: artifact["data"] for artifact in found if artifact["key"] in ("index", "results")}
