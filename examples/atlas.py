# %% [markdown]
# # The atlas: every concept of a layer
#
# A small network is told only whether a handwritten digit is even or odd. Which concepts does
# its hidden layer hold? The atlas finds them without any label, tests each on digits that did
# not choose it, and tells where the network errs. Then the same for photos and a network with
# ImageNet weights.

# %%
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from pretrained_photos import lite_model, lite_transforms, load, shipped_paths
from quickstart import SmallCNN, load_digits

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import Atlas, Concept, atlas
from captum_rdr.pooling import spatial_mean

plt.rcParams["figure.dpi"] = 72  # as they stand in the notebook

# %% [markdown]
# ## A network that was never told the digits

# %%
digits, held_out = load_digits()
torch.manual_seed(0)
model = SmallCNN()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(4):
    for rows in torch.split(torch.randperm(len(digits.labels)), 64):
        parity = digits.labels[rows] % 2
        loss = F.cross_entropy(model(digits.images[rows])[:, :2], parity)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
model = model.eval()

# %% [markdown]
# ## Its atlas
#
# Index held-out and training digits, at the neurons' medians. `labels` and `predictions` are
# used to describe what was found, not to find it.

# %%
images = torch.cat([held_out.images, digits.images])
labels = torch.cat([held_out.labels, digits.labels])
with torch.no_grad():
    is_odd = model(images)[:, :2].argmax(1)
rdr = RelaxedDecisionRegion(model, model.hidden, threshold="median")
rdr.fit(images, keep_features=True, show_progress=False)
found = atlas(
    rdr,
    labels=[f"{digit} ({'even' if digit % 2 == 0 else 'odd'})" for digit in labels],
    show_progress=False,
)
print(found)

# %% [markdown]
# ## What its concepts look like
#
# A row a concept: the most evident digits in it.


# %%
def draw(found: Atlas, pictures: Any, names: list[str], **options: Any) -> Figure:
    """The exemplars of each concept, and what stands beside them."""
    fig, grid = plt.subplots(
        len(found), 9, figsize=(10, len(found)), squeeze=False, layout="constrained"
    )
    for axes, concept, name in zip(grid, found, names, strict=True):
        for ax in axes:
            ax.axis("off")
        axes[0].text(0, 0.5, name, va="center", fontsize=10)
        for ax, row in zip(axes[1:], concept.exemplars.tolist(), strict=False):
            ax.imshow(pictures[row], **options)
    return fig


def named(concept: Concept) -> str:
    """Its most frequent label and its size."""
    assert concept.labels is not None
    ((label, count),) = concept.labels.most_common(1)
    return f"{count} of {len(concept.rows)}\nare {label}"


fig = draw(found, images[:, 0], list(map(named, found)), cmap="gray_r")

# %% [markdown]
# ## Where does it err?
#
# Even or odd is what the network is asked, so an error is a wrong parity. Each concept's rate is
# held against that of all other digits.

# %%
asked = atlas(
    rdr, labels=labels % 2, predictions=is_odd, test=False, show_progress=False
)
for concept in asked:
    if concept.errors and concept.errors.p_value < 0.05:
        digit = labels[concept.rows].mode().values
        print(f"{len(concept.rows)} rows, mostly {digit}: {concept.errors}")

# %% [markdown]
# ## Photos
#
# Ten photos that scikit-image and scikit-learn carry, 24 crops of each, and the last stage of
# EfficientNet-Lite0 with ImageNet weights. Nothing tells the atlas which crops are of one photo.

# %%
photos = load(shipped_paths(), 24)
transforms = lite_transforms()
photo_model: Any = lite_model()
pixels = torch.stack([transforms(picture) for picture in photos.pictures])
of_photos = RelaxedDecisionRegion(
    photo_model, photo_model.bn2, threshold="median", pool=spatial_mean
)
of_photos.fit(torch.split(pixels, 16), keep_features=True, show_progress=False)
names = [photos.names[source] for source in photos.sources.tolist()]
concepts = atlas(of_photos, labels=names, show_progress=False)
print(concepts)
fig = draw(concepts, photos.pictures, list(map(named, concepts)))

# %% [markdown]
# ## The finding

# %%


def share(found: Atlas) -> float:
    """Share of rows that have the most frequent label of their concept."""
    alike = sum(max(concept.labels.values()) for concept in found)
    return float(alike / len(found.rows))


print(
    f"Finding: the network was told only even or odd, but {share(found):.0%} of the digits "
    f"have the most frequent digit of their concept (there are {len(found)}), and "
    f"{share(concepts):.0%} of the crops the photo of theirs ({len(concepts)})."
)
