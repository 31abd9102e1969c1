"""Figures of regions, in the manner of `captum.attr.visualization`."""

from captum_rdr.visualization.reference import Reference
from captum_rdr.visualization.region import visualize_region

__all__ = ["Reference", "visualize_region"]
