# %% [markdown]
# # Tabular data: why a tumor was misclassified
#
# A small network tells benign from malignant tumors by 30 measurements of cell nuclei
# (scikit-learn's breast cancer data). It misses some malignant ones. Their regions in the
# hidden layer answer two questions: which tumors does the network take them for, and which
# measurements make it do so?

# %%
# %pip install --quiet captum-rdr scikit-learn

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import nn

from captum_rdr import RelaxedDecisionRegion

# %% [markdown]
# ## Data and network
#
# Half of the 569 tumors to learn from, half held out; measurements in standard deviations.

# %%
table = load_breast_cancer()
order = torch.randperm(569, generator=torch.Generator().manual_seed(1))
x = torch.tensor(table.data, dtype=torch.float32)[order]
malignant = torch.tensor(table.target)[order] == 0
train, held_out = slice(0, 285), slice(285, 569)
x = (x - x[train].mean(0)) / x[train].std(0)

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(60):
    loss = F.cross_entropy(model(x[train]), malignant[train].long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    said_malignant = model(x).argmax(1) == 1
missed = (malignant & ~said_malignant).nonzero().flatten()
missed = missed[missed >= held_out.start]
found = (malignant & said_malignant).nonzero().flatten()
found = found[found >= held_out.start]
print(
    f"{len(missed)} of {len(missed) + len(found)} held-out malignant tumors are missed"
)

# %% [markdown]
# ## Regions in the last hidden layer
#
# Any layer will do, here the last hidden one. A median threshold suits a table, since each neuron
# is then active in half of the reference set. The training tumors are the reference. Each
# held-out malignant tumor gets a region, the missed ones and the found ones.

# %%
rdr = RelaxedDecisionRegion(model, model[3], threshold="median")
rdr.fit(x[train], show_progress=False)
_, of_missed = rdr.attribute(x[missed], n_neighbors=8, n_neurons=8)
_, of_found = rdr.attribute(x[found], n_neighbors=8, n_neurons=8)


def malignant_share(members: torch.Tensor) -> float:
    """Share of the members that are malignant."""
    return float(malignant[train][members].float().mean())


shares = [malignant_share(region.members) for region in of_missed]
for row, region, share in zip(missed.tolist(), of_missed, shares, strict=True):
    print(
        f"missed tumor {row}: {share:.0%} of {len(region.members)} members are malignant"
    )
share_found = sum(malignant_share(one.members) for one in of_found) / len(of_found)
taken = [i for i, share in enumerate(shares) if share < 0.5]

# %% [markdown]
# A region answers a question that the network's output does not: which tumors does this layer take
# it for? Where the members are benign, the layer already takes the tumor for a benign one. Where
# they are malignant, the layer saw what it is, and only the output layer got it wrong.
#
# ## Which measurements
#
# For those that the layer takes for benign ones: where does each measurement lie, between
# the average of the benign (0) and of the malignant (1) training tumors?

# %%
benign_mean = x[train][~malignant[train]].mean(0)
spread = x[train][malignant[train]].mean(0) - benign_mean
members = torch.cat([of_missed[i].members for i in taken]).unique()
position = (x[missed[taken]].mean(0) - benign_mean) / spread
of_members = (x[train][members].mean(0) - benign_mean) / spread
of_found_tumors = (x[found].mean(0) - benign_mean) / spread
telling = spread.abs().argsort(descending=True)[:12]

figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
rows = torch.arange(len(telling))
axis.scatter(of_members[telling], rows, color="tab:green", label="members")
axis.scatter(position[telling], rows, marker="x", color="black", label="missed")
axis.scatter(of_found_tumors[telling], rows, color="tab:red", label="found")
axis.set_yticks(rows.tolist(), [str(table.feature_names[i]) for i in telling])
axis.set_xlabel("0: average benign tumor, 1: average malignant tumor")
axis.invert_yaxis()
axis.legend(fontsize=8)
Path("demo").mkdir(exist_ok=True)
figure.savefig("demo/tabular.png", dpi=80)

# %% [markdown]
# ## The finding
#
# Five tumors are few, so this is a diagnosis of these five, not a law.

# %%
nearer = int((position[telling] < 0.5).sum())
print(
    f"Finding: of {len(missed)} missed tumors the layer takes {len(taken)} for benign ones "
    f"({nearer} of the {len(telling)} most telling measurements lie nearer to the benign "
    f"average), and {len(missed) - len(taken)} for what it is: only the output layer got "
    f"that wrong. For the tumors it finds, {share_found:.0%} of members are malignant."
)
