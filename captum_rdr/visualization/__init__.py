"""Figures of regions, in the manner of `captum.attr.visualization`."""

from captum_rdr.visualization.concept import visualize_concept
from captum_rdr.visualization.layers import visualize_layers
from captum_rdr.visualization.neighbors import visualize_neighbors
from captum_rdr.visualization.neurons import visualize_principal_neurons
from captum_rdr.visualization.reference import Reference
from captum_rdr.visualization.region import visualize_region

__all__ = [
    "Reference",
    "visualize_concept",
    "visualize_layers",
    "visualize_neighbors",
    "visualize_principal_neurons",
    "visualize_region",
]
