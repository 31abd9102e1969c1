"""Labels and rows mean the same in whatever they come, always by position."""

import re
import warnings

import matplotlib
import numpy as np
import pytest
import torch

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.discovery import compare, layerwise, misclassification, subclasses
from captum_rdr.metrics import coverage, purity
from captum_rdr.report import write_report
from captum_rdr.visualization import (
    Reference,
    visualize_bank,
    visualize_region,
    visualize_text_region,
)

N = 60
NAMES = ["cat", "犬の品種", "قطة", "x" * 90]


class Deep(torch.nn.Sequential):
    """Two layers with ten neurons each, and one score a class."""

    def __init__(self):
        torch.manual_seed(3)
        layers = [torch.nn.Linear(12, 10), torch.nn.Linear(10, 10)]
        super().__init__(torch.nn.Flatten(), *layers, torch.nn.Linear(10, len(NAMES)))


@pytest.fixture(scope="module")
def world():
    drawing = torch.Generator().manual_seed(0)
    labels = torch.randint(len(NAMES), (N,), generator=drawing)
    centers = 2 * torch.randn(len(NAMES), 12, generator=drawing)
    data = centers[labels] + torch.randn(N, 12, generator=drawing)
    model = Deep().eval()
    data = data.reshape(N, 1, 3, 4).sigmoid()
    rdr = RelaxedDecisionRegion(model, model[1], threshold="median")
    deep = RelaxedDecisionRegion(model, [model[1], model[2]], threshold="median")
    rdr.fit(data, keep_features=True, show_progress=False)
    deep.fit(data, show_progress=False)
    return rdr, deep, data, labels


def first(values, count):
    if isinstance(values, dict):
        return values
    return values.iloc[:count] if hasattr(values, "iloc") else values[:count]


def texts_of(fig):
    return [one.get_text() for one in fig.findobj(matplotlib.text.Text)]


def shown(labels, world):
    rdr, _, images, _ = world
    with warnings.catch_warnings(action="ignore"):  # of letters that fonts lack
        reference = Reference(images, labels, labels, class_names=NAMES)
        (region,) = rdr.attribute_members([3], 4, 3)
        fig, _ = visualize_region(region, rdr, reference, use_pyplot=False)
        classes = [str(reference.classes(row)) for row in range(N)]
        return classes, texts_of(fig)


def mapped(labels, world):
    with warnings.catch_warnings(action="ignore"):
        reference = Reference((), labels, class_names=NAMES)
        fig, ax = visualize_bank([], world[0].bank, reference, use_pyplot=False)
    points = [one.get_offsets().tolist() for one in ax.child_axes[0].collections]
    return texts_of(fig), points


def reported(labels, world, path):
    rdr, _, images, _ = world
    reference = Reference(images, labels, class_names=NAMES)
    with warnings.catch_warnings(action="ignore"):
        write_report(
            path,
            rdr,
            images[:3],
            reference,
            query_labels=first(labels, 3),
            regions=rdr.attribute(images[:3], 4, 3)[1],
            show_progress=False,
        )
    page = path.read_text()
    return re.findall(r"<h2 id=\"title.*|<option.*", page)


def regions_of(world):
    return world[0].attribute_members(range(20), 5, 4, show_progress=False)


BY_LABELS = {
    "purity": lambda y, w, _: purity(regions_of(w), y).nan_to_num(-1).tolist(),
    "coverage": lambda y, w, _: coverage(regions_of(w), y).nan_to_num(-1).tolist(),
    "purity to targets": lambda y, w, _: (
        purity(regions_of(w), y, first(y, 20)).nan_to_num(-1).tolist()
    ),
    "layerwise": lambda y, w, _: repr(layerwise(w[1], 3, y, show_progress=False)),
    "Reference": lambda y, w, _: shown(y, w),
    "visualize_bank": lambda y, w, _: mapped(y, w),
    "write_report": lambda y, w, path: reported(y, w, path / "page.html"),
}
OF_MODEL = {
    "misclassification": lambda y, w, _: repr(
        misclassification(w[0], w[2], y, y, y, repair=1, show_progress=False)
    ),
}
BY_ROWS = {
    "attribute_members": lambda r, w, _: repr(
        w[0].attribute_members(r, 5, 4, show_progress=False)
    ),
    "subclasses": lambda r, w, _: repr(
        subclasses(w[0], r, n_neighbors=4, show_progress=False)
    ),
    "compare": lambda r, w, _: repr(
        compare(w[0].bank, w[1].bank[1], r, n_neighbors=4, show_progress=False)
    ),
    "write_report": lambda r, w, path: page_of_rows(r, w, path / "rows.html"),
    "states": lambda r, w, _: w[0].bank.states(r).tolist(),
    "features_of": lambda r, w, _: w[0].bank.features_of(r).tolist(),
    "take": lambda r, w, _: w[0].bank.take(r).rows.tolist(),
}


def page_of_rows(rows, world, path):
    rdr, _, images, _ = world
    write_report(path, rdr, rows, images, show_progress=False)
    return re.findall(r"<h2 id=\"title.*", path.read_text())


def wraps(values):
    """The same whole numbers in everything that people hold them in."""
    plain = [int(one) for one in values]
    made = {
        "list": plain,
        "tuple": tuple(plain),
        "array": np.array(plain),
        "small array": np.array(plain, np.uint8),
        "objects": np.array(plain, dtype=object),
        "tensors": [torch.tensor(one) for one in plain],
        "tensor": torch.tensor(plain),
        "int32 tensor": torch.tensor(plain, dtype=torch.int32),
    }
    if torch.cuda.is_available():
        made["device"] = torch.tensor(plain, device="cuda")
    try:
        import pandas as pd
    except ImportError:
        return made
    index = np.random.default_rng(1).permutation(len(plain))
    column = pd.Series(plain, index=index)
    made["column"] = column
    made["names for rows"] = pd.Series(plain, index=[f"r{one}" for one in index])
    made["same index twice"] = pd.Series(plain, index=[0] * len(plain))
    made["nullable"] = column.astype("Int64")
    made["categorical"] = column.astype("category")
    made["frame"] = column.to_frame("y")
    return made


def names(values):
    """Their names in the same things."""
    plain = [NAMES[int(one)] for one in values]
    made = {"list": plain, "array": np.array(plain), "tuple": tuple(plain)}
    try:
        import pandas as pd
    except ImportError:
        return made
    index = np.random.default_rng(1).permutation(len(plain))
    made["column"] = pd.Series(plain, index=index)
    made["categorical"] = pd.Series(plain, index=index).astype("category")
    made["frame"] = pd.DataFrame({"y": plain}, index=index)
    return made


@pytest.mark.filterwarnings("ignore:.*unanimous")
@pytest.mark.parametrize("function", [*BY_LABELS, *OF_MODEL])
def test_labels(function, world, tmp_path):
    call, labels = {**BY_LABELS, **OF_MODEL}[function], world[3]
    wanted = call(labels.tolist(), world, tmp_path)
    for kind, given in wraps(labels).items():
        assert call(given, world, tmp_path) == wanted, kind


@pytest.mark.filterwarnings("ignore:.*unanimous")
@pytest.mark.parametrize("function", BY_LABELS)
def test_names(function, world, tmp_path):
    call, labels = BY_LABELS[function], world[3]
    wanted = call(labels.tolist(), world, tmp_path)
    for kind, given in names(labels).items():
        assert call(given, world, tmp_path) == wanted, kind


@pytest.mark.filterwarnings("ignore:.*unanimous")
@pytest.mark.parametrize("function", BY_ROWS)
def test_rows(function, world, tmp_path):
    call, rows = BY_ROWS[function], [7, 3, 40, 21, 5, 33, 12, 59]
    wanted = call(rows, world, tmp_path)
    for kind, given in wraps(rows).items():
        assert call(given, world, tmp_path) == wanted, kind


@pytest.mark.filterwarnings("ignore:.*unanimous")
@pytest.mark.parametrize("function", [*BY_LABELS, *OF_MODEL])
def test_what_is_no_label(function, world, tmp_path):
    call, labels = {**BY_LABELS, **OF_MODEL}[function], world[3]
    one_hot = torch.nn.functional.one_hot(labels)
    for given in (one_hot, one_hot.numpy(), one_hot.tolist()):
        with pytest.raises(ValueError, match=r"shape \(60, 4\).*argmax\(1\)"):
            call(given, world, tmp_path)
    for given in (labels / 2, [True, False] * 30, {3: 4}, "cat", [*range(59), "cat"]):
        with pytest.raises(TypeError, match="give "):
            call(given, world, tmp_path)


@pytest.mark.parametrize("function", BY_ROWS)
def test_what_is_no_row(function, world, tmp_path):
    for given in ([0.5, 1.0], [True, False], ["a"], np.array([True] * N)):
        with pytest.raises(TypeError, match="give "):
            BY_ROWS[function](given, world, tmp_path)
    with pytest.raises(ValueError, match="from 0 to 59"):
        BY_ROWS[function]([3, 60], world, tmp_path)


def test_unknown_labels_of_pandas():
    pd = pytest.importorskip("pandas")
    column = pd.Series([1, None, 0], index=[2, 0, 1])
    for given in (column, column.astype("Int64"), [1, None, 0], [1, np.nan, 0]):
        found = [Reference([], given, class_names=["a", "b"]).labels]
        assert found == [[1, None, 0]]
    texts = pd.Series(["b", None, "a"], index=[2, 0, 1])
    for given in (texts, texts.astype("category"), texts.astype("string")):
        assert Reference([0] * 3, given).labels == ["b", None, "a"]
    with pytest.raises(TypeError, match="labels holds None at position 1"):
        purity([], column)


def test_texts_and_class_names_in_columns(world):
    pd = pytest.importorskip("pandas")
    bank = ConfigurationBank((3,))
    bank.append(torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]]) > 0)
    texts = ["a fine film", "fine acting", "a dull film", "dull"]
    layer = torch.nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    (region,) = rdr.attribute_members([0], 2, 1)
    column = pd.Series(texts, index=[3, 1, 0, 2])
    assert str(visualize_text_region(region, rdr, column)) == str(
        visualize_text_region(region, rdr, texts)
    )
    names = pd.Series(["a", "b"], index=[1, 0])
    assert Reference([0], [0], class_names=names).classes(0).label == "a"
