"""Two sets of metrics, compared by their standard errors."""

import pytest

from pipeline.workflow.drift import compare, drift_line

BEFORE = {"m.json": {"nll_nats": 90.0, "nll_stderr": 0.3, "active_units": 16}}


def after(value, stderr=0.4):
    return {"m.json": {"nll_nats": value, "nll_stderr": stderr, "active_units": 40}}


@pytest.mark.parametrize(("value", "drifted"), [(90.49, False), (90.51, True), (89.51, False), (89.49, True)])
def test_the_standard_error_of_the_difference_is_allowed(value, drifted):
    (row,) = compare(BEFORE, after(value), 1)
    assert row["allowed"] == 0.5
    assert row["drifted"] == drifted


def test_more_standard_errors_allow_more():
    (row,) = compare(BEFORE, after(91.4), 3)
    assert not row["drifted"]


@pytest.mark.parametrize("measured", [{}, {"m.json": {}}, after(float("nan"))])
def test_a_missing_value_or_nan_has_drifted(measured):
    (row,) = compare(BEFORE, measured, 1)
    assert row["drifted"]


def test_a_line_about_a_metric_that_has_drifted():
    (row,) = compare(BEFORE, after(91.0), 1)
    assert drift_line(row) == "m.json: nll_nats: committed 90.0, measured 91.0 (differs by 1.0, allowed 0.5)"
