"""How far regions depend on choices that should not matter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.method.rule import Rule
from captum_rdr.metrics.membership import at_rows, jaccard, members_in
from captum_rdr.metrics.requery import found_in


@dataclass(frozen=True)
class Variation:
    """Regions after one change, compared with the given ones.

    Attributes:
        name: what was changed.
        neurons: float64 ``(Q,)``, Jaccard index of the principal neurons; NaN where
            neurons do not correspond.
        members: float64 ``(Q,)``, Jaccard index of the members.
    """

    name: str
    neurons: Tensor
    members: Tensor


@dataclass(frozen=True, repr=False)
class Stability:
    """A table of variations; ``str`` draws it.

    Attributes:
        variations: one for each change.
    """

    variations: tuple[Variation, ...]

    def __repr__(self) -> str:
        width = max((len(one.name) for one in self.variations), default=0)
        lines = [f"{'Jaccard index of':{width}}  neurons  members"]
        for one in self.variations:
            neurons, members = float(one.neurons.mean()), float(one.members.mean())
            lines.append(f"{one.name:{width}}  {neurons:7.3f}  {members:7.3f}")
        return "\n".join(lines)


def stability(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    *,
    n_neighbors: Sequence[int] = (),
    n_neurons: Sequence[int] = (),
    n_bootstraps: int = 5,
    others: Mapping[str, Sequence[Region]] | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> Stability:
    """Compare regions with those that other choices give for the same queries.

    Members are compared over the rows of ``bank``, in whatever bank a region was found.

    Args:
        regions: regions of ``bank``; the changes start from their own rules.
        bank: the bank they were found in.
        n_neighbors: sizes k of S to try.
        n_neurons: numbers t of principal neurons to try.
        n_bootstraps: banks to draw, each as many rows of ``bank`` with replacement.
        others: named regions of the same queries from other models, say one trained from
            another seed, over the same data in the same order; only members are compared.
        generator: draws the bootstrap banks; None for one seeded with 0.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        ValueError: a region is that of another bank, lacks its rule, or its S was given
            by rows; a size is out of range; or ``others`` has another number of regions.

    Source: Kalousis, Prados and Hilario, *Stability of feature selection algorithms*,
    Knowledge and Information Systems 2007.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(6, 64, generator=drawing).repeat_interleave(30, 0)
    >>> data = centers + torch.randn(180, 64, generator=drawing) / 2
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions = rdr.attribute_members(range(0, 180, 9), n_neurons=5)
    >>> stability(regions, rdr.bank, n_neighbors=[6, 12], n_neurons=[10], n_bootstraps=2)
    Jaccard index of  neurons  members
    n_neighbors=6     0.843    0.886
    n_neighbors=12    0.748    0.854
    n_neurons=10      0.500    0.798
    bootstrap 1       0.601    0.778
    bootstrap 2       0.520    0.779
    """
    generator = generator or torch.Generator().manual_seed(0)
    changes: list[tuple[str, ConfigurationBank | None, Callable[[Rule], Rule]]] = [
        *((f"n_neighbors={k}", bank, _with_neighbors(k)) for k in n_neighbors),
        *((f"n_neurons={t}", bank, _with_neurons(t)) for t in n_neurons),
        *((f"bootstrap {i + 1}", None, lambda rule: rule) for i in range(n_bootstraps)),
    ]
    variations = []
    for name, searched, change in tqdm(
        changes, desc="Varying", unit="change", disable=not show_progress, delay=1
    ):
        if searched is None:
            rows = torch.randint(len(bank), (len(bank),), generator=generator)
            searched = at_rows(bank, rows)
        again = found_in(searched, regions, bank, change)
        members = [members_in(region, bank) for region in again]
        variations.append(_compared(name, regions, again, members))
    for name, theirs in (others or {}).items():
        if len(theirs) != len(regions):
            raise ValueError(
                f"others[{name!r}] has {len(theirs)} regions for {len(regions)}; give "
                "those of the same queries"
            )
        variations.append(_compared(name, regions, None, [r.members for r in theirs]))
    return Stability(tuple(variations))


def _with_neighbors(k: int) -> Callable[[Rule], Rule]:
    return lambda rule: replace(rule, n_neighbors=k)


def _with_neurons(t: int) -> Callable[[Rule], Rule]:
    return lambda rule: replace(rule, n_neurons=t)


def _compared(
    name: str,
    regions: Sequence[Region],
    again: Sequence[Region] | None,
    members: Sequence[Tensor],
) -> Variation:
    neurons = [torch.nan] * len(regions)
    if again is not None:
        neurons = [
            jaccard(one.neurons, other.neurons)
            for one, other in zip(regions, again, strict=True)
        ]
    shared = [
        jaccard(one.members, rows) for one, rows in zip(regions, members, strict=True)
    ]
    return Variation(
        name,
        torch.tensor(neurons, dtype=torch.float64),
        torch.tensor(shared, dtype=torch.float64),
    )


def plot_stability(
    stability: Stability,
    plt_fig_axis: tuple[Any, Any] | None = None,
    use_pyplot: bool = True,
) -> tuple[Any, Any]:
    """Draw the Jaccard indices: a bar for the mean, a line from quartile to quartile.

    Args:
        stability: what `stability` found.
        plt_fig_axis: figure and axis to draw on, as in ``captum.attr.visualization``.
        use_pyplot: make the figure with pyplot, which a notebook then shows.

    Returns:
        figure and axis.

    >>> one = Variation("n_neurons=5", torch.tensor([0.5]), torch.tensor([0.7]))
    >>> fig, ax = plot_stability(Stability((one,)), use_pyplot=False)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['n_neurons=5']
    """
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    if plt_fig_axis is not None:
        fig, ax = plt_fig_axis
    elif use_pyplot:
        fig, ax = plt.subplots(layout="constrained")
    else:
        fig = Figure(layout="constrained")
        ax = fig.subplots()
    places = torch.arange(len(stability.variations), dtype=torch.float64)
    for shift, what in ((-0.2, "neurons"), (0.2, "members")):
        values = [getattr(one, what).double() for one in stability.variations]
        means = [float(one.mean()) for one in values]
        ax.barh(places + shift, means, height=0.36, label=what)
        for place, one in zip(places.tolist(), values, strict=True):
            low, high = one.quantile(torch.tensor([0.25, 0.75]).double()).tolist()
            ax.plot([low, high], [place + shift] * 2, color="black", linewidth=1)
    ax.set_yticks(places.tolist(), [one.name for one in stability.variations])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="Jaccard index with the given regions")
    ax.legend()
    return fig, ax
