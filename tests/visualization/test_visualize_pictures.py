"""From images to what is drawn, and what bank rows are called."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from captum_rdr.visualization import Reference
from captum_rdr.visualization.reference import MISSING, Classes, as_picture

bytes_ = arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3)))


@given(bytes_)
def test_arrays_are_channels_last_and_tensors_first(image):
    expected = image / 255
    before = image.copy()
    for given_ in (
        image,
        image.astype(np.float32) / 255,
        torch.from_numpy(image).permute(2, 0, 1),
        torch.from_numpy(image).permute(2, 0, 1).double() / 255,
        torch.from_numpy(image).permute(2, 0, 1).long(),
    ):
        assert np.allclose(as_picture(given_), expected, atol=1e-6)
    assert (image == before).all()


def test_gray_images_are_drawn_gray():
    image = np.array([[0.0, 1.0]])
    for gray in (image, image[..., None], torch.from_numpy(image)[None]):
        assert as_picture(gray)[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert as_picture(image > 0.5)[0].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_reference_makes_images_of_inputs():
    reference = Reference(torch.tensor([[[[0.0, 1.0]]]]), to_image=lambda x: 1 - x)
    assert reference.picture(0)[0].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert reference.picture_of((np.array([[0.0]]), 3))[0].tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("channels", [1, 3])
def test_missing_pixels_are_magenta(channels):
    image = torch.full((channels, 2, 2), 0.5)
    image[0, 0, 1] = torch.nan
    picture = as_picture(image)
    assert (picture == MISSING).all(2).tolist() == [[False, True], [False, False]]
    assert image.isnan().sum() == 1


def test_gradients_and_half_precision_do_not_matter():
    image = torch.full((3, 2, 2), 0.5, dtype=torch.float16, requires_grad=True)
    assert (as_picture(image) == 0.5).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 8, 8)), r"\(3, 8, 8\).*an array \(H, W, C\).*last in an array"),
        (torch.zeros(8, 8, 3), r"\(8, 8, 3\).*a tensor \(C, H, W\).*first in a tensor"),
        (torch.zeros(1, 3, 8, 8), r"\(1, 3, 8, 8\); give one image"),
        (torch.zeros(2, 8, 8), "with 1 or 3 channels"),
        (np.zeros((0, 4, 3)), "shape"),
        (torch.full((1, 2, 2), -0.5), "from -0.5 to 0.*undo a normalization"),
        (np.full((2, 2), 1.5), "from 0 to 1.5; give float64 from 0 to 1"),
        (np.full((2, 2), 300), "from 0 to 300; give int64 from 0 to 255"),
        (torch.full((1, 2, 2), torch.inf), "values from 0 to inf"),
    ],
)
def test_images_that_cannot_be_drawn(image, message):
    with pytest.raises(ValueError, match=f"query has.*{message}"):
        as_picture(image, name="query")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[0, 1]], "image is a list; give a NumPy array"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(TypeError, match=message):
        as_picture(image)


def test_items_of_a_dataset_may_carry_their_labels():
    image = torch.zeros(1, 2, 2)
    items = [(image, 1), (image, torch.tensor(0)), (image, {"box": 3}), image]
    reference = Reference(items, class_names=["cat", "dog"])
    labels = [reference.classes(row).label for row in range(4)]
    assert labels == ["dog", "cat", None, None]
    assert reference.picture(0).shape == (2, 2, 3)
    given = Reference(items, torch.tensor([0, 0, 0, 0]), class_names=["cat", "dog"])
    assert given.classes(0) == Classes("cat", None)


@pytest.mark.parametrize("label", [None, -1, float("nan"), torch.tensor(-1)])
def test_unknown_labels(label):
    reference = Reference([0], [label], [1])
    assert reference.classes(0) == Classes("?", "1")
    assert not reference.classes(0).is_wrong


def test_a_reference_that_does_not_fit():
    with pytest.raises(ValueError, match="a label is 2, but class_names has 2 items"):
        Reference([0], [2], class_names=["cat", "dog"]).classes(0)
    with pytest.raises(ValueError, match="labels has 1 items, but row 3"):
        Reference(torch.zeros(9, 1, 2, 2), [2]).classes(3)
    with pytest.raises(ValueError, match="dataset has 2 items, but row 3"):
        Reference(torch.zeros(2, 1, 2, 2)).picture(3)
    with pytest.raises(ValueError, match=r"image of row 1 has values from 0 to 2"):
        Reference(torch.full((2, 1, 2, 2), 2.0)).picture(1)
