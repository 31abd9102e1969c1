"""Figures of regions, in the manner of `captum.attr.visualization`.

What is listed here is public; the modules are not.
"""

from captum_rdr.visualization.bank import visualize_bank
from captum_rdr.visualization.concept import visualize_concept
from captum_rdr.visualization.neurons import visualize_principal_neurons
from captum_rdr.visualization.plane import visualize_plane
from captum_rdr.visualization.reference import Reference
from captum_rdr.visualization.region import visualize_neighbors, visualize_region
from captum_rdr.visualization.series import visualize_time_series_region
from captum_rdr.visualization.sheet import FigureOptions
from captum_rdr.visualization.tabular import visualize_tabular_region
from captum_rdr.visualization.text import RegionText, visualize_text_region

__all__ = [
    "FigureOptions",
    "Reference",
    "RegionText",
    "visualize_bank",
    "visualize_concept",
    "visualize_neighbors",
    "visualize_plane",
    "visualize_principal_neurons",
    "visualize_region",
    "visualize_tabular_region",
    "visualize_text_region",
    "visualize_time_series_region",
]
