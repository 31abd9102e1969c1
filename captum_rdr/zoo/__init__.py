"""Layers, preprocessing and class names of ready models."""

from captum_rdr.zoo.setups import Setup, dequantized, explain, paper_setup
from captum_rdr.zoo.table import LayerInfo, LayerTable, layer, layers

__all__ = [
    "LayerInfo",
    "LayerTable",
    "Setup",
    "dequantized",
    "explain",
    "layer",
    "layers",
    "paper_setup",
]
