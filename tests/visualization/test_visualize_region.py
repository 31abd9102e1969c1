"""The figure of a region, and what all figures have in common."""

import matplotlib
import numpy as np
import pytest
import torch
from conftest import bank_of
from drawing import (
    FAILED,
    PASSED,
    as_new,
    draw,
    fitted,
    hidden,
    outcome,
    shapes,
    strings,
)
from matplotlib import pyplot
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.visualization import (
    Reference,
    sheet,
    visualize_principal_neurons,
    visualize_region,
)
from captum_rdr.visualization.sheet import ORANGE, shortened, text_width, wrapped


@pytest.fixture(scope="module")
def data():
    return shapes(60, 3)


@pytest.fixture(scope="module")
def rdr(data):
    return hidden(data)


@pytest.fixture(scope="module")
def region(rdr):
    return rdr.attribute_members([4], 5, 4, tolerance=1)[0]


def region_of_size(n_members, n_rows=520):
    """A region of rows that share two states, those of row 0, and images to draw."""
    states = torch.zeros(n_rows, 9, dtype=torch.bool)
    states[:n_members, :2] = True
    states[::2, 2:] = True  # not unanimous where there are two rows
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(states))
    rows = torch.arange(min(n_members, 3))
    found = rdr.attribute_members([0], n_neurons=2, neighbors=rows)[0]
    assert found.neurons.tolist() == [0, 1]
    assert len(found.members) == n_members
    return rdr, found


@pytest.mark.parametrize("n_members", [1, 3, 10, 500])
def test_any_number_of_members(n_members):
    rdr, found = region_of_size(n_members)
    fig, ax = visualize_region(found, rdr, torch.rand(520, 1, 4, 4), use_pyplot=False)
    shown = len(ax.child_axes)  # the query is one of the members
    assert shown == min(n_members, 1 + 2 + 16)
    texts = strings(ax)
    assert f"{shown} of {n_members} members shown." in texts[0]
    assert not any("differ" in text for text in texts)  # since none may
    states = rdr.bank.states(found.members)
    away = sorted((states != states[0]).sum(1).tolist())
    if shown == n_members:
        numbers = [int(text.split()[0]) for text in texts if text.endswith(" away")]
        assert sorted(numbers) == away[1:]
    near = min(n_members, 3) - 1
    assert f"Query and {near} of {near} neighbors, nearest first" in texts
    assert ("0 of 0 further members, nearest first" in texts) == (n_members <= 3)
    assert ("16 of 497 further members, nearest first" in texts) == (n_members == 500)
    draw(fig)


def test_captions_are_those_of_the_rows(rdr, region, data):
    labels = torch.arange(60) % 2
    predictions = labels.clone()
    wrong = int(region.members[region.members != 4][0])
    predictions[wrong] = 1 - predictions[wrong]
    reference = Reference(data, labels, predictions, ["lying", "standing"])
    _, ax = visualize_region(
        region, rdr, reference, n_members=60, title="Bars", use_pyplot=False
    )
    texts = strings(ax)
    assert texts[0] == "Bars"
    shown = len(ax.child_axes)
    assert shown == len(region.members)
    assert texts.count("query") == 1
    counts = torch.tensor([labels[row] for row in region.members.tolist()])
    assert texts.count("standing") == int(counts.sum())
    assert texts.count("lying") == int((1 - counts).sum())
    differ = rdr.bank.disagreements(region.neurons, region.states)[region.members]
    assert texts.count("1 differs") == int((differ == 1).sum())
    framed = [
        child
        for child in ax.child_axes
        if child.spines["left"].get_visible()
        and child.spines["left"].get_edgecolor() == to_rgba(ORANGE)
    ]
    (frame,) = framed
    assert np.allclose(frame.images[0].get_array(), data[wrong].permute(1, 2, 0))
    red = [text for text in ax.texts if text.get_color() == ORANGE]
    (caption,) = red
    assert caption.get_text().startswith("→ ")


def test_further_members_come_nearest_first(rdr, region, data):
    _, ax = visualize_region(region, rdr, data, n_members=60, use_pyplot=False)
    drawn = [np.asarray(child.images[0].get_array()) for child in ax.child_axes]
    rows = [
        next(i for i, x in enumerate(data) if np.allclose(x.permute(1, 2, 0), image))
        for image in drawn
    ]
    assert rows[0] == 4
    neighbors = [row for row in region.neighbors.tolist() if row != 4]
    assert rows[1 : 1 + len(neighbors)] == neighbors
    distances = rdr.bank.distances(rdr.bank.states(torch.tensor([4]))[0])
    further = rows[1 + len(neighbors) :]
    wanted = [row for row in region.members.tolist() if row not in rows[:5]]
    assert further == sorted(wanted, key=lambda row: (distances[row], row))


def test_a_random_sample_is_seeded(rdr, region, data):
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        _, ax = visualize_region(
            region, rdr, data, n_members=5, generator=generator, use_pyplot=False
        )
        assert any("drawn at random" in text for text in strings(ax))
        return np.concatenate([child.images[0].get_array() for child in ax.child_axes])

    assert (drawn(3) == drawn(3)).all()
    assert (drawn(3) != drawn(4)).any()


def test_regions_with_an_evidence_cut(rdr, data):
    found = rdr.attribute_members([4], 5, 6, weighting="evidence", tolerance=2.5)[0]
    _, ax = visualize_region(found, rdr, data, use_pyplot=False)
    assert "evidence of at least" in strings(ax)[0]
    assert any(text.endswith("most evident first") for text in strings(ax))


def test_a_new_input(rdr, data):
    new = (data[:1] * 0.9 + 0.05).clamp(0, 1)
    _, (found,) = rdr.attribute(new)
    found = as_new(found, rdr.bank)  # whatever row it may look like
    with pytest.raises(ValueError, match="bank does not hold the region's query"):
        visualize_region(found, rdr, data)
    _, ax = visualize_region(found, rdr, data, (new[0], 1, -1), use_pyplot=False)
    assert strings(ax)[strings(ax).index("query") :][1:3] == ["1", "→ ?"]
    assert np.allclose(ax.child_axes[0].images[0].get_array(), new[0].permute(1, 2, 0))
    with pytest.raises(ValueError, match=r"query has shape \(1, 3, 8, 8\)"):
        visualize_region(found, rdr, data, new[0][None])
    channels_last = new[0].permute(1, 2, 0).numpy()  # the model is not run again
    _, again = visualize_region(found, rdr, data, channels_last, use_pyplot=False)
    drawn = (figure.child_axes[0].images[0].get_array() for figure in (ax, again))
    assert np.allclose(*drawn)


def test_a_missing_pixel_is_drawn(rdr, region, data):
    damaged = data.clone()
    damaged[4, :, 0, 0] = torch.nan
    _, ax = visualize_region(region, rdr, damaged, use_pyplot=False)
    assert ax.child_axes[0].images[0].get_array()[0, 0].tolist() == [1, 0, 1]


def test_what_a_test_found_is_said(rdr, region, data):
    _, ax = visualize_region(outcome(region, FAILED), rdr, data, use_pyplot=False)
    said = "Not significant: p=0.3 (level 0.01), so this may be a chance find"
    (text,) = [text for text in ax.texts if text.get_text() == said]
    assert text.get_color() == ORANGE
    _, ax = visualize_region(outcome(region, PASSED), rdr, data, use_pyplot=False)
    assert "Significant: adjusted p=0.008, effect 4" in strings(ax)
    _, ax = visualize_region(region, rdr, data, use_pyplot=False)
    assert not any("ignificant" in text for text in strings(ax))


def test_no_principal_neurons(data):
    states = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]]) > 0
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(states))
    with pytest.warns(UserWarning, match="fewer unanimous neurons"):
        found = rdr.attribute_members([0], 4, 2)[0]
    _, ax = visualize_region(found, rdr, data, use_pyplot=False)
    assert strings(ax)[0].startswith("0 principal neurons of 2 (0 active, 0 inactive)")
    _, ax = visualize_principal_neurons(found, rdr, use_pyplot=False)
    assert strings(ax)[-1] == "The region has no principal neuron."


def test_pyplot_knows_only_what_it_shall(rdr, region, data):
    pyplot.close("all")
    before = matplotlib.get_backend()
    fig, _ = visualize_region(region, rdr, data, use_pyplot=False)
    visualize_principal_neurons(region, rdr, use_pyplot=False)
    assert pyplot.get_fignums() == []
    assert isinstance(fig, Figure)
    fig, _ = visualize_region(region, rdr, data)
    assert [pyplot.figure(number) for number in pyplot.get_fignums()] == [fig]
    pyplot.close("all")
    assert matplotlib.get_backend() == before


def test_given_axes_are_drawn_in(rdr, region, data):
    fig = Figure(figsize=(8, 4))
    left, right = fig.subplots(1, 2)
    found = visualize_region(region, rdr, data, plt_fig_axis=(fig, left))
    assert found == (fig, left)
    assert not left.axison
    assert right.axison
    assert right.child_axes == []
    draw(fig)
    outer = left.get_window_extent()
    for child in left.child_axes:
        inner = child.get_window_extent()
        assert outer.x0 <= inner.x0 < inner.x1 <= outer.x1
        assert outer.y0 <= inner.y0 < inner.y1 <= outer.y1


def test_a_given_size_is_kept_and_filled(rdr, region, data):
    for size in [(3.0, 3.0), (6.0, 2.0), (12.0, 9.0)]:
        fig = Figure(figsize=size)
        given = (fig, fig.add_axes((0, 0, 1, 1)))
        fig, ax = visualize_region(region, rdr, data, plt_fig_axis=given)
        assert tuple(fig.get_size_inches()) == size
        draw(fig)
        texts = [text.get_window_extent() for text in ax.texts]
        assert all(box.y0 >= 0 and box.x1 <= size[0] * fig.dpi + 1 for box in texts)


def test_nothing_overlaps_or_leaves_the_figure(rdr, region, data):
    names = ["a name that is far too long for a tile", "x"]
    reference = Reference(data, torch.arange(60) % 2, torch.arange(60) % 2, names)
    fig, ax = visualize_region(region, rdr, reference, use_pyplot=False)
    draw(fig)
    boxes = [text.get_window_extent() for text in ax.texts]
    boxes += [child.get_window_extent() for child in ax.child_axes]
    for index, one in enumerate(boxes):
        assert one.x0 >= 0
        assert one.x1 <= fig.bbox.x1 + 1
        for other in boxes[:index]:
            width = min(one.x1, other.x1) - max(one.x0, other.x0)
            height = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert width <= 1 or height <= 1


def test_names_are_never_mathematics(rdr, region, data):
    reference = Reference(data, [0] * 60, class_names=["$\\frac{"])
    fig, ax = visualize_region(
        region, rdr, reference, use_pyplot=False, title="$\\bad{"
    )
    draw(fig)
    assert strings(ax)[0] == "$\\bad{"


def test_inputs_are_left_alone(rdr, region, data):
    before = data.clone()
    members = region.members.clone()
    visualize_region(region, rdr, data, use_pyplot=False)
    assert data.equal(before)
    assert region.members.equal(members)


def test_regions_of_others_are_refused(rdr, data):
    both = fitted(data)
    ((first,), (second,)) = both.attribute_members([2])
    visualize_region(first, both, data, use_pyplot=False)
    with pytest.raises(
        ValueError, match=r"shape \(6, 4, 4\), which is not that of rdr"
    ):
        visualize_region(first, rdr, data)
    with pytest.raises(TypeError, match="region is a list; give a Region"):
        visualize_region([second], rdr, data)
    with pytest.raises(ValueError, match=r"rdr has no bank yet; call fit"):
        visualize_region(
            first, RelaxedDecisionRegion(both.forward_func, both.layer[0]), data
        )
    with pytest.raises(ValueError, match="n_members=-1 is too small"):
        visualize_region(first, both, data, n_members=-1)
    with pytest.raises(ValueError, match="dataset has 3 items"):
        visualize_region(first, both, data[:3])


def test_text_is_cut_and_wrapped_to_its_room():
    assert shortened("short", 1, 7) == "short"
    cut = shortened("a very long name indeed", 0.6, 7)
    assert cut.endswith("…")
    assert text_width(cut, 7) <= 0.6
    lines = wrapped("one two three four five six seven", 0.8, 8)
    assert len(lines) > 2
    assert " ".join(lines) == "one two three four five six seven"
    assert all(text_width(line, 8) <= 0.8 for line in lines)
    assert shortened("any", 0, 7) == "…"
    assert wrapped("", 1, 8) == [""]


def test_other_scripts_have_fonts_behind_matplotlibs_own(monkeypatch):
    monkeypatch.setattr(sheet, "_OTHER_SCRIPTS", ("No such font", "DejaVu Serif"))
    sheet._other_scripts.cache_clear()
    try:
        fig, _ = sheet.draw([sheet.paragraph("a label")], use_pyplot=False)
        (text,) = (one for one in fig.findobj(Text) if one.get_text() == "a label")
        families = text.get_fontfamily()
        assert families == [*matplotlib.rcParams["font.family"], "DejaVu Serif"]
    finally:
        sheet._other_scripts.cache_clear()
