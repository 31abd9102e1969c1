"""Layers, preprocessing and class names of ready models."""

from captum_rdr.zoo.setups import Setup, explain
from captum_rdr.zoo.table import LayerInfo, LayerTable, layer, layers

__all__ = ["LayerInfo", "LayerTable", "Setup", "explain", "layer", "layers"]
