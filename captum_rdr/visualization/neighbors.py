"""The nearest reference instances by three distances, side by side."""

import warnings
from typing import Any, Unpack

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.method.rule import Metric
from captum_rdr.metrics._explainers import fitted_banks
from captum_rdr.visualization.reference import as_batch
from captum_rdr.visualization.sheet import FigureAxes, FigureOptions
from captum_rdr.visualization.subject import Subject, subject_of, tiles_of
from captum_rdr.visualization.tiles import Row, draw

METRICS: tuple[Metric, ...] = ("configuration", "cosine", "euclidean")


def visualize_neighbors(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any = None,
    *,
    n_neighbors: int = 7,
    **figure: Unpack[FigureOptions],
) -> FigureAxes:
    """Draw what is nearest to a region's query by each of three distances, in rows.

    Args:
        region: the region of the query.
        rdr: fitted for one layer, with ``keep_features=True``; the region is one of its
            own.
        dataset: the reference set that was fitted, or a `Reference` of it.
        query: the input, without the batch dimension, or a tuple of it, its class and
            the class that the model predicts; not needed where the bank holds it.
        n_neighbors: neighbors in a row.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there are several layers, the region is not that of ``rdr``, the query
            is missing, the bank is smaller or holds no features, or an image cannot be
            drawn.

    >>> import torch
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Flatten()
    >>> data = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model, threshold=0.5)
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> (region,) = rdr.attribute_members([3], 4, 5)
    >>> fig, ax = visualize_neighbors(region, rdr, data, n_neighbors=4, use_pyplot=False)
    >>> [text.get_text() for text in ax.texts if "Nearest" in text.get_text()]
    ['Nearest by configuration distance', 'Nearest by cosine distance: 3 of 4 as in the
     first row', 'Nearest by euclidean distance: 3 of 4 as in the first row']
    """
    check_whole("n_neighbors", n_neighbors)
    fitted_banks(rdr)  # refuses several layers
    subject = subject_of(region, rdr, dataset, query)
    return draw(neighbor_rows(subject, rdr, n_neighbors), **figure)


def neighbor_rows(
    subject: Subject, rdr: RelaxedDecisionRegion, n_neighbors: int = 7
) -> list[Row]:
    """What `visualize_neighbors` shows, row by row."""
    first: set[int] = set()
    rows: list[Row] = []
    for metric in METRICS:
        options: Any = {"n_neighbors": n_neighbors + 1, "neighbors": metric}
        with warnings.catch_warnings():
            # Only S is wanted, so it does not matter that no neuron is unanimous in it.
            warnings.filterwarnings("ignore", ".*fewer unanimous neurons", UserWarning)
            if subject.query is None and subject.region.query is not None:
                row = subject.region.query
                (found,) = rdr.attribute_members([row], n_neurons=1, **options)
            else:
                inputs = as_batch([subject.item])
                _, (found,) = rdr.attribute(inputs, n_neurons=1, **options)
        form = "{:.0f} away" if metric == "configuration" else "at {:.3g}"
        pairs = zip(found.neighbors.tolist(), found.distances.tolist(), strict=True)
        notes = {one: [form.format(far)] for one, far in pairs if one != found.query}
        heading = f"Nearest by {metric} distance"
        if rows:
            shared = len(first & notes.keys())
            heading += f": {shared} of {len(notes)} as in the first row"
        first = first or set(notes)
        near = tiles_of(subject.reference, notes)
        rows.append(Row(heading, [subject.tile, *near]))
    return rows
