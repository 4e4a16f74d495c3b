"""The text of /metrics, in TorchServe's form."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from model_server.metrics.exposition import Family, Sample, java_double, write

REQUESTS = Family(
    "Requests2XX", "counter", "a help text", [Sample("Requests2XX", (("Level", "Host"), ("Hostname", "h")), 3)]
)
EMPTY = Family("QueueTime", "gauge", "milliseconds", [])


def test_labels_end_with_a_comma_and_values_have_a_decimal_point() -> None:
    assert write([REQUESTS, EMPTY]) == (
        "# HELP Requests2XX a help text\n"
        "# TYPE Requests2XX counter\n"
        'Requests2XX{Level="Host",Hostname="h",} 3.0\n'
        "# HELP QueueTime milliseconds\n"
        "# TYPE QueueTime gauge\n"
    )


def test_a_filter_leaves_out_families_without_matching_samples() -> None:
    other = Family("other", "gauge", "", [Sample("other", (), 1)])
    assert write([REQUESTS, EMPTY, other], frozenset({"other"})) == "# HELP other \n# TYPE other gauge\nother 1.0\n"
    assert write([REQUESTS], frozenset({"nothing"})) == ""


def test_text_that_means_something_in_the_format_is_escaped() -> None:
    nasty = 'a "quoted" back\\slash\nline'
    text = write([Family("m", "gauge", "two\nlines \\", [Sample("m", (("label", nasty),), 1)])])
    (family,) = text_string_to_metric_families(text)
    assert family.documentation == "two\nlines \\"
    assert family.samples[0].labels == {"label": nasty}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # From the specification of Java's Double.toString.
        (0, "0.0"),
        (1, "1.0"),
        (0.5, "0.5"),
        (100, "100.0"),
        (0.001, "0.001"),
        (0.0001, "1.0E-4"),
        (0.00012345, "1.2345E-4"),
        (9999999, "9999999.0"),
        (10_000_000, "1.0E7"),
        (12_345_678.5, "1.23456785E7"),
        (1e300, "1.0E300"),
        (-2.5, "-2.5"),
        (-1e8, "-1.0E8"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_are_those_of_java(value: float, text: str) -> None:
    assert java_double(value) == text
    assert math.isnan(value) or float(text) == value


def test_a_negative_zero_does_not_stand_for_later_zeros() -> None:
    """Rounding makes them: a worker's time that is a hair below zero."""
    java_double.cache_clear()
    assert [java_double(value) for value in (round(-0.001, 2), 0.0, 0)] == ["0.0", "0.0", "0.0"]
