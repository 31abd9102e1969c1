# %% [markdown]
# # Time series: two causes behind one label
#
# Signals of a machine are labelled *fine* or *faulty*. What the labels do not say: a fault
# has one of two causes, a loose part that rattles or a bearing that drifts. A 1-D CNN is
# trained on the two labels alone. Regions show up to which layer it still knows the cause,
# and when in the signal each of them happens.

# %%
# %pip install --quiet captum-rdr

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from torch import Tensor, nn

from captum_rdr import Region, RelaxedDecisionRegion
from captum_rdr.pooling import spatial_mean

# %% [markdown]
# ## Signals
#
# 2,000 signals of 128 samples: a hum with noise, and in half of them, for 24 samples
# somewhere, a rattle (fast oscillation) or a drift (a bump). `cause` is kept aside, to check
# what comes out.

# %%
LENGTH, DURATION = 128, 24
FINE, RATTLE, DRIFT = range(3)
CAUSES = ["fine", "rattle", "drift"]


def signals(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Signals ``(n, 1, 128)``, their causes ``(n,)`` and when the fault starts."""
    time = torch.arange(LENGTH)
    phase = 6.28 * torch.rand(n, 1, generator=generator)
    x = torch.sin(0.2 * time + phase)
    x = x + 0.3 * torch.randn(n, LENGTH, generator=generator)
    cause = torch.where(
        torch.rand(n, generator=generator) < 0.5,
        FINE,
        torch.randint(RATTLE, DRIFT + 1, (n,), generator=generator),
    )
    start = torch.randint(0, LENGTH - DURATION, (n,), generator=generator)
    since = time - start[:, None]
    window = torch.sin(3.14 * since / DURATION).clamp(min=0)
    window = window * ((since >= 0) & (since < DURATION))
    x = x + 1.0 * window * torch.sin(2.5 * since) * (cause == RATTLE)[:, None]
    x = x + 1.5 * window * (cause == DRIFT)[:, None]
    return x[:, None], cause, start


x, cause, start = signals(2000, torch.Generator().manual_seed(0))
new_x, new_cause, new_start = signals(400, torch.Generator().manual_seed(1))

# %% [markdown]
# ## The network knows two labels

# %%
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv1d(1, 16, 7, padding=3),
    nn.ReLU(),
    nn.MaxPool1d(4),
    nn.Conv1d(16, 32, 7, padding=3),
    nn.ReLU(),
    nn.AdaptiveMaxPool1d(1),
    nn.Flatten(),
    nn.Linear(32, 32),
    nn.ReLU(),
    nn.Linear(32, 2),
)
faulty = (cause != FINE).long()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
generator = torch.Generator().manual_seed(0)
for _ in range(8):
    for batch in torch.randperm(len(x), generator=generator).split(64):
        loss = F.cross_entropy(model(x[batch]), faulty[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
with torch.no_grad():
    said_faulty = model(new_x).argmax(1) == 1
accuracy = float((said_faulty == (new_cause != FINE)).float().mean())
print(f"right about {accuracy:.0%} of 400 new signals")

# %% [markdown]
# ## Regions of new faulty signals
#
# Two layers, read in one forward pass: the second convolution, averaged over time by
# `spatial_mean`, and the hidden layer behind it. The training signals are the reference. How many
# members of a region have the query's cause?

# %%
layers = {"convolution": model[4], "hidden layer": model[8]}
rdr = RelaxedDecisionRegion(
    model, list(layers.values()), threshold="median", pool=[spatial_mean, None]
)
rdr.fit(x, show_progress=False)
faults = (said_faulty & (new_cause != FINE)).nonzero().flatten()
_, found = rdr.attribute(new_x[faults], n_neighbors=8, n_neurons=8)
purity = {}
for layer, regions in zip(layers, found, strict=True):
    for fault in (RATTLE, DRIFT):
        shares = [
            (cause[region.members] == fault).float().mean()
            for query, region in zip(faults, regions, strict=True)
            if new_cause[query] == fault
        ]
        purity[layer, fault] = float(torch.stack(shares).mean())
        print(
            f"{layer:12} {CAUSES[fault]:6}: {purity[layer, fault]:.0%} of members have this "
            f"cause, {(cause == fault).float().mean():.0%} of all signals"
        )

# %% [markdown]
# ## When the concept happens
#
# `concept_score` under Captum's `Occlusion`: which stretch of the signal does the
# convolution's region hang on? The fault's true time was never shown to anyone.

# %%
hits = []
examples: dict[int, tuple[Tensor, Tensor, Region]] = {}
for query, *both in zip(faults[:40], *found, strict=False):
    region = both[0]
    score, _ = rdr.concept_score(both)
    importance = Occlusion(score).attribute(
        new_x[query, None], sliding_window_shapes=(1, 12), strides=(1, 4)
    )[0, 0]
    peak = int(importance.argmax())
    hits.append(bool(new_start[query] - 6 <= peak < new_start[query] + DURATION + 6))
    examples.setdefault(int(new_cause[query]), (query, importance, region))
hit_rate = sum(hits) / len(hits)
by_chance = (DURATION + 12) / LENGTH

# %%
figure, axes = plt.subplots(2, 4, figsize=(8, 3), sharey=True, layout="constrained")
for axis_row, (fault, shown) in zip(axes, sorted(examples.items()), strict=True):
    query, importance, region = shown
    axis_row[0].plot(new_x[query, 0], color="black", linewidth=0.8)
    axis_row[0].fill_between(
        range(LENGTH), -3, 3, where=importance > importance.max() / 2, alpha=0.3
    )
    axis_row[0].set_ylabel(CAUSES[fault])
    for axis, member in zip(axis_row[1:], region.members.tolist(), strict=False):
        axis.plot(x[member, 0], color="tab:blue", linewidth=0.8)
axes[0, 0].set_title("new signal, concept shaded", fontsize=9)
axes[0, 1].set_title("members", fontsize=9)
Path("demo").mkdir(exist_ok=True)
figure.savefig("demo/time_series.png", dpi=80)

# %% [markdown]
# ## The finding
#
# So the place to look for subclasses that a label hides is not the last layer: what does not help
# with the label is gone there.

# %%
print(
    f"Finding: trained on fine or faulty alone, the convolution keeps the causes apart "
    f"({purity['convolution', RATTLE]:.0%} and {purity['convolution', DRIFT]:.0%} of members "
    f"share the query's), the hidden layer has forgotten them "
    f"({purity['hidden layer', RATTLE]:.0%} and {purity['hidden layer', DRIFT]:.0%}). The "
    f"concept peaks at the fault in {hit_rate:.0%} of signals, {by_chance:.0%} by chance."
)
