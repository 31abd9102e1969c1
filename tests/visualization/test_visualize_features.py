"""Text and tabular regions."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import bank_of
from drawing import FAILED, as_new, outcome, strings
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.visualization import (
    Reference,
    visualize_tabular_region,
    visualize_text_region,
)
from captum_rdr.visualization.tabular import columns_of, effects
from captum_rdr.visualization.text import distinctive_words

TEXTS = [
    "a fine film with fine actors",
    "Fine acting",
    "a dull film",
    "dull and long",
    "long",
    "a film",
]


def two_kinds(n_inside=2, n_rows=6):
    states = torch.zeros(n_rows, 3, dtype=torch.bool)
    states[:n_inside] = True
    bank = bank_of(states)
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    return rdr, rdr.attribute_members([0], n_inside, 3)[0]


def told(html):
    """What stands above the table, and its rows cell by cell."""
    heads, table = html.split("<tbody>")
    cells = [
        re.findall("<t[hd] [^>]*>(.*?)</t[hd]>", row, re.S)
        for row in table.split("</tr>")
    ]
    rows = [[" ".join(plain(one).split()) for one in row] for row in cells if row]
    return plain(heads).strip(), rows


def plain(html):
    return re.sub("<[^>]+>", "", html)


def test_text_of_members_and_typical_words():
    rdr, region = two_kinds()
    labels, predictions = [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]
    reference = Reference(TEXTS, labels, predictions, ["bad", "good"])
    found = visualize_text_region(region, rdr, reference)
    assert found._repr_html_() == str(found)
    heads, rows = told(found)
    assert heads.startswith("3 principal neurons of 3")
    assert "Query and 1 of 2 members, nearest first.Typical words: fine" in heads
    assert rows == [
        ["query", "good", "good", "", "a fine film with fine actors"],
        ["row 1", "good", "bad (wrong)", "", "Fine acting"],
    ]
    marked = re.findall("([^>]*)</mark>", found)
    assert marked == ["fine", "with", "fine", "actors", "Fine", "acting"]


def test_weights_of_the_users():
    rdr, region = two_kinds()
    found = visualize_text_region(
        region, rdr, TEXTS, weigh=lambda words: [len(word) - 3 for word in words]
    )
    assert "actors</mark>" in found
    assert "Typical" not in found
    assert "rgba(213,94,0" in found  # "a" speaks against
    flat = visualize_text_region(region, rdr, TEXTS, weigh=lambda w: [0.0] * len(w))
    assert "<mark" not in flat
    with pytest.raises(ValueError, match="weigh gave 1 weights for 6 words"):
        visualize_text_region(region, rdr, TEXTS, weigh=lambda words: [1.0])


def test_texts_are_escaped():
    rdr, region = two_kinds()
    bad = ['<script>alert(1)</script> & "x"'] * 6
    reference = Reference(bad, [0] * 6, [1] * 6, ["<img src=x>", "</td>"])
    found = visualize_text_region(region, rdr, reference)
    assert "<script" not in found
    assert "<img" not in found
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found
    assert found.count("<td") == found.count("</td>") == 4 * 2


def test_a_new_text_is_given():
    rdr, region = two_kinds()
    new = replace(as_new(region, rdr.bank), states=torch.tensor([True, True, False]))
    with pytest.raises(ValueError, match="pass it as query"):
        visualize_text_region(new, rdr, TEXTS)
    lost = replace(new, query_states=None)
    with pytest.raises(ValueError, match="does not hold its query's states"):
        visualize_text_region(lost, rdr, TEXTS, "so fine")
    found = visualize_text_region(new, rdr, TEXTS, ("so fine", 1, 0))
    assert told(found)[1][0] == ["query", "1", "0 (wrong)", "1 differs", "so fine"]
    tokens = [text.split() for text in TEXTS]
    again = visualize_text_region(new, rdr, tokens, (["so", "fine"], 1))
    assert told(again)[1][0] == ["query", "1", "", "1 differs", "so fine"]


def test_long_texts_are_cut_and_failed_tests_said():
    rdr, region = two_kinds()
    long = [" ".join(f"w{i}" for i in range(100))] * 6
    found = visualize_text_region(outcome(region, FAILED), rdr, long)
    assert all(row[-1].endswith("w59 …") for row in told(found)[1])
    assert "Not significant: p=0.3" in found
    with pytest.raises(TypeError, match="a text is a int"):
        visualize_text_region(region, rdr, [1] * 6)
    with pytest.raises(ValueError, match="n_members=-1 is too small"):
        visualize_text_region(region, rdr, TEXTS, n_members=-1)


def test_distinctive_words_by_hand():
    found = distinctive_words(TEXTS, torch.tensor([0, 1]))
    a, b, c, d = 2.5, 0.5, 0.5, 4.5  # "fine": in both members and none of four others
    error = np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    assert found["fine"] == pytest.approx(np.log(a * d / (b * c)) / error)
    assert found["dull"] < 0
    assert max(found, key=found.get) == "fine"


@given(st.integers(0, 10_000))
def test_effect_sizes_by_hand(seed):
    generator = np.random.default_rng(seed)
    numbers = generator.standard_normal(20)
    numbers[generator.random(20) < 0.2] = np.nan
    kinds = generator.choice(["a", "b", "c"], 20)
    rdr, region = two_kinds(8, 20)
    found = {
        one.name: one
        for one in effects({"n": numbers, "k": kinds}, region, len(rdr.bank))
    }
    x, y = (part[~np.isnan(part)] for part in (numbers[:8], numbers[8:]))
    if len(x) > 1 and len(y) > 1:
        pooled = ((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / (
            len(x) + len(y) - 2
        )
        assert found["n"].size == pytest.approx((x.mean() - y.mean()) / pooled**0.5)
    for kind in set(kinds):
        share = (kinds[:8] == kind).mean() - (kinds[8:] == kind).mean()
        assert found[f"k = {kind}"].size == pytest.approx(share)
    sizes = [
        abs(one.size)
        for one in effects({"n": numbers, "k": kinds}, region, len(rdr.bank))
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_effects_without_spread_or_members():
    rdr, region = two_kinds(3)
    flag = np.array([1, 1, 1, 0, 0, 0], bool)
    (apart,) = effects({"x": 1.0 - flag}, region, len(rdr.bank))
    assert apart.size == -np.inf
    assert effects({"x": np.ones(6)}, region, len(rdr.bank)) == []
    assert effects({"x": np.full(6, np.nan)}, region, len(rdr.bank)) == []
    (share,) = effects({"x": flag}, region, len(rdr.bank))
    assert share[:3] == ("x = True", 1.0, True)
    everything = replace(region, members=torch.arange(6))
    assert effects({"x": flag, "y": np.arange(6)}, everything, len(rdr.bank)) == []


def test_the_bars_are_the_effects():
    rdr, region = two_kinds(8, 20)
    table = {
        "number": np.arange(20.0),
        "constant": np.where(np.arange(20) < 8, 1, 0),
        "flag": np.arange(20) < 4,
        "$name$": np.array(["u", "v"] * 10),
    }
    _, ax = visualize_tabular_region(
        outcome(region, FAILED), rdr, table, n_features=2, use_pyplot=False
    )
    means, shares = ax.child_axes
    found = effects(table, region, len(rdr.bank))
    widths = [bar.get_width() for bar in shares.patches]
    assert widths == pytest.approx(
        [100 * one.size for one in found if one.is_share][:2]
    )
    assert len(means.patches) == 2
    texts = strings(ax)
    assert any(text.endswith("(percentage points): 2 of 3 shown") for text in texts)
    assert any(text.startswith("Not significant") for text in texts)
    assert "50% against 0%" in texts
    low, high = means.get_xlim()
    assert -low == high > max(abs(bar.get_width()) for bar in means.patches[1:])


def test_tables_of_every_kind():
    rdr, region = two_kinds()
    rows = np.arange(12.0).reshape(6, 2)
    for table in (
        rows,
        torch.from_numpy(rows),
        {"feature 0": rows[:, 0], "feature 1": rows[:, 1]},
    ):
        assert [
            one.name for one in effects(columns_of(table), region, len(rdr.bank))
        ] == [
            "feature 0",
            "feature 1",
        ]
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": rows[:, 0], "b": ["x", "y"] * 3})
    assert {one.name for one in effects(columns_of(frame), region, len(rdr.bank))} == {
        "a",
        "b = x",
        "b = y",
    }
    with pytest.raises(ValueError, match="dataset has 5 rows in 'b', but"):
        effects(columns_of({"a": [1] * 6, "b": [1] * 5}), region, len(rdr.bank))
    with pytest.raises(TypeError, match="dataset is a list; give an array"):
        columns_of([1])
    with pytest.raises(
        ValueError, match="dataset has 1 rows in 'a', but the region's bank 6; give"
    ):
        effects({"a": np.ones(1)}, region, len(rdr.bank))
    with pytest.raises(
        ValueError, match="dataset has 7 rows in 'feature 0', but the region's bank 6"
    ):
        visualize_tabular_region(region, rdr, np.ones((7, 2)))


def test_nothing_to_compare_is_said():
    rdr, region = two_kinds()
    _, ax = visualize_tabular_region(region, rdr, np.ones((6, 1)), use_pyplot=False)
    assert "No feature can be compared." in strings(ax)
    with pytest.raises(ValueError, match="n_features=0 is too small"):
        visualize_tabular_region(region, rdr, np.ones((6, 1)), n_features=0)
