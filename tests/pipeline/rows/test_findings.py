"""The findings of a study: every number comes from committed rows, and nothing is claimed that they do not show."""

import re

import numpy as np
import pytest
from project import ROOT

from flowvae.errors import InputError
from flowvae.estimates import ImageScores, mean_estimate, nll_estimate
from pipeline.rows.findings import findings_of, sentences
from pipeline.rows.page import FIGURES, page_path, page_text, write_findings
from pipeline.rows.plan import load_preset, rows_of
from pipeline.rows.records import Record, compact, read_scores, write_record
from pipeline.rows.results import Gain, gains_between
from pipeline.rows.state import read_records

PRESET = "study-larochelle"
NUM_IMAGES = 400
SUBSET = np.arange(0, NUM_IMAGES, 4)
GAINS = {"posterior": 1.0, "prior": 2.0, "both": 3.0}  # in NLL, of the rows that `write` makes up
TIGHTER = 0.5  # by how much a flow in the posterior tightens the bound


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project with the presets."""
    for name in ("presets", "params.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found():
    """The findings from the records in the working folder."""
    preset, params = load_preset(PRESET)
    rows = rows_of(preset, params)
    return findings_of(preset, rows, read_records(rows))


def rows_named(*names):
    """The rows of these names."""
    preset, params = load_preset(PRESET)
    rows = {row.name: row for row in rows_of(preset, params)}
    return [rows[name] for name in names]


def write(*names, complete=False, **changes):
    """Write records of rows with made-up scores, which have the gains above."""
    draws = np.random.default_rng(0)
    images = draws.normal(90, 15, NUM_IMAGES)
    for row in rows_named(*names):
        gain = GAINS.get(row.study, 0.0) if row.point.num_transforms else 0.0
        tighter = TIGHTER if row.study == "posterior" and gain else 0.0
        bound = images - gain - tighter + draws.normal(0, 0.1, NUM_IMAGES)
        subset = np.arange(NUM_IMAGES) if complete else SUBSET
        nll = bound[subset] - 4 + tighter + draws.normal(0, 0.1, len(subset))
        scores = ImageScores(bound, bound, bound, subset, nll, bound[subset], bound[subset])
        values = {"negative_elbo": mean_estimate(bound), "nll": nll_estimate(scores)}
        values |= dict.fromkeys(("reconstruction", "kl"), mean_estimate(bound))
        flat = {f"{name}_nats": each.value for name, each in values.items()}
        flat |= {f"{name}_stderr": each.stderr for name, each in values.items()}
        content = {
            **{"status": "finished", "reason": None, "vae": row.vae, "training": row.training, "seed": row.point.seed},
            "evaluation": row.evaluation.model_copy(update={"num_nll_images": len(subset)}),
            "data": {"train": "0"},
            "protocol": {
                **{"dataset": "MNIST", "binarization": "larochelle"},
                "images": {"train": 50, "valid": 10, "test": NUM_IMAGES},
            },
            **{"training_code": "", "scoring_code": "", "weights_sha256": None, "scores": flat, "images": {}},
            "curve": {"valid_negative_elbo": [90.0], "max_grad_norm": [5.0]},
            "seconds": {"training": 600.0 + row.point.num_transforms, "scoring": 9.0, "sampling": 0.5},
            **{"machine": {"processor": "Example"}, "finished": "", "git_revision": None},
        }
        write_record(row, Record(**content | changes), scores)


def seeds(name, count=3):
    return [f"{name}-{seed}" for seed in range(count)]


def test_the_page_is_that_of_the_committed_rows(monkeypatch):
    """Otherwise write it again: flowvae study study-larochelle --findings."""
    monkeypatch.chdir(ROOT)
    assert page_text(found()) == page_path(PRESET).read_text(encoding="utf-8")


def test_without_rows_nothing_is_claimed(project):
    findings = found()
    assert write_findings(findings) == [page_path(PRESET)]
    text = page_path(PRESET).read_text()
    assert "0 of 185 rows are there" in text and "69 of 69 of `posterior`" in text
    assert "±" not in text and not re.search(r"\d\.\d", text) and "![" not in text


def test_gains_are_paired_differences_of_the_committed_scores(project):
    """Computed here from the images' scores with numpy alone."""
    names = [*seeds("posterior/none-0"), *seeds("posterior/planar-10")]
    write(*names)
    plain, planar = found().results
    differences = [
        read_scores(plain.rows[seed]).negative_elbo - read_scores(planar.rows[seed]).negative_elbo for seed in range(3)
    ]
    gain = planar.gains.bound
    assert gain.value == pytest.approx(np.mean(differences))
    assert gain.seeds == pytest.approx([each.mean() for each in differences])
    images = np.mean(differences, axis=0)
    assert gain.images == pytest.approx(images.std(ddof=1) / NUM_IMAGES**0.5)
    assert gain.stderr == pytest.approx((gain.images**2 + np.var(gain.seeds, ddof=1) / 3) ** 0.5)
    assert gain.value == pytest.approx(GAINS["posterior"] + TIGHTER, abs=0.1)
    assert planar.gains.nll.value == pytest.approx(GAINS["posterior"], abs=0.1)
    gaps = [
        [each.subset_negative_elbo - each.nll for each in map(read_scores, result.rows.values())]
        for result in (plain, planar)
    ]
    narrower = np.mean(np.subtract(*gaps), axis=0)
    assert planar.gains.tighter.value == pytest.approx(TIGHTER, abs=0.1)
    assert planar.gains.tighter.images == pytest.approx(narrower.std(ddof=1) / len(SUBSET) ** 0.5)
    share = round(100 * planar.gains.tighter.value / gain.value)
    text = "\n".join(sentences(found())["What a flow buys"])
    assert f"`planar-10` has the largest gain in NLL: {planar.gains.nll.value:+.2f} ± " in text
    assert f", {share}% of its gain in −ELBO." in text


def test_one_seed_is_never_sure(project):
    write("posterior/none-0-0", "posterior/planar-10-0", "posterior/planar-40-0")
    parts = sentences(found())
    unsure = "Not surely better or worse models than the plain VAE: `planar-10`, `planar-40`."
    assert unsure in parts["What a flow buys"]
    assert "changes NLL by nothing that is sure in 1 of 1: `planar`" in parts["What depth buys"][0]
    assert "one seed" in parts["What depth buys"][0]


def test_a_row_without_its_plain_vae_has_no_gain(project):
    """The plain VAE of another seed is none to compare with."""
    write("posterior/none-0-1", "posterior/planar-10-0")
    parts = sentences(found())
    assert parts["What a flow buys"] == ["No flow can be compared with the plain VAE yet."]


def test_posterior_and_prior_that_add_up(project):
    names = ("posterior/none-0", "posterior/real_nvp-5", "prior/prior_real_nvp-5", "both/both_real_nvp-5")
    write(*(name for variant in names for name in seeds(variant)))
    first, second = sentences(found())["Posterior or prior, or both"]
    assert "in the prior instead of the posterior surely lowers NLL in 1 of 1: `prior_real_nvp-5`" in first
    assert "They add up, as far as one can tell" in second


def test_rows_with_other_settings_are_compared_among_themselves(project):
    variants = ("posterior/none-0", "stability/none-0", "stability/none_norm-5", "stability/none_norm-80")
    write(*(name for variant in variants for name in seeds(variant, 2)))
    findings = found()
    assert [result.name for result in findings.main] == ["none"]
    assert [bool(result.gains) for result in findings.others] == [False, True, True]
    parts = sentences(findings)
    assert parts["What keeps deep stacks stable"][0].startswith("In `stability`, the greatest k instead of the least")
    assert parts["What depth buys"] == ["No family has two depths yet."]


def test_nll_of_all_images_is_compared_with_that_of_a_part_on_the_images_of_the_part(project):
    write("posterior/none-0-0")
    write("posterior/planar-10-0", complete=True)
    plain, planar = found().results
    ones, twos = (read_scores(result.rows[0]) for result in (plain, planar))
    assert len(twos.subset) == NUM_IMAGES
    gap = ones.nll - twos.nll[SUBSET]
    expected = (ones.negative_elbo - twos.negative_elbo).mean()
    expected -= (ones.subset_negative_elbo - twos.negative_elbo[SUBSET] - gap).mean()
    assert planar.gains.nll.value == pytest.approx(expected, abs=1e-6)


def test_rows_of_other_data_are_not_compared(project):
    write("posterior/none-0-0")
    write("posterior/planar-10-0", data={"train": "1"})
    with pytest.raises(InputError, match=r"^posterior/none-0-0 and posterior/planar-10-0 are of other data") as error:
        found()
    assert "\n" not in str(error.value)


def test_damaged_scores_are_one_line(project):
    write("posterior/none-0-0", "posterior/planar-10-0")
    path = project / "reports/study/rows" / PRESET / "posterior/planar-10-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"planar-10-0\.safetensors: damaged, its checksum is not the one in"):
        page_text(found())
    path.unlink()
    with pytest.raises(InputError, match=r"planar-10-0\.safetensors: cannot be read \(No such file"):
        page_text(found())


def test_what_others_found_stands_beside_ours(project):
    variants = ("posterior/none-0", "posterior/planar-10", "posterior/planar-40", "posterior/real_nvp-5")
    write(*(name for variant in variants for name in seeds(variant)))
    text = page_text(found())
    source = "| Rezende & Mohamed 2015 (DLGM) | no | static | planar amortised | none | 40 "
    assert f"{source}| – | +4.20 | planar-40 |" in text
    assert "planar amortised gained +2.40 nats more in NLL; here from k = 10 to 40" in text.replace("\n  ", " ")


def test_figures_are_drawn_and_named_on_the_page(project):
    names = ("posterior/none-0", "posterior/planar-10", "prior/prior_real_nvp-5", "both/both_real_nvp-5")
    write(*(name for variant in names for name in seeds(variant, 2)))
    page, *figures = write_findings(found())
    assert [path.stem for path in figures] == list(FIGURES)
    links = re.findall(r"!\[.*\]\((.*)\)", page.read_text())
    assert [(page.parent / link).resolve() for link in links] == [path.resolve() for path in figures]
    assert max(len(line) for line in page.read_text().splitlines() if not line.startswith(("|", "!["))) <= 120


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_compact_scores_are_exact_to_half_a_unit(scale):
    draws = np.random.default_rng(0)
    bound = scale * draws.uniform(20, 600, 300)
    scores = ImageScores(bound, bound, bound, SUBSET[:50], bound[:50] - 3, bound[:50], bound[:50])
    content, units = compact(scores)
    assert units["negative_elbo"] == pytest.approx(0.01 if scale == 1 else 0.37, abs=0.01)
    assert len(content) < 2000


def test_a_gain_is_sure_beyond_two_standard_errors_over_images_and_seeds():
    assert Gain(1.0, 0.4, [0.9, 1.1]).is_sure
    assert not Gain(1.0, 0.4, [0.0, 2.0]).is_sure
    assert not Gain(1.0, 0.01, [1.0]).is_sure


def test_gains_need_a_seed_in_common(project):
    write("posterior/none-0-0", "posterior/planar-10-1")
    plain, planar = found().results
    assert gains_between(plain.rows, planar.rows) is None
