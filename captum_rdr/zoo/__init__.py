"""Layers, preprocessing and class names of ready models."""

from captum_rdr.zoo.layerinfo import LayerInfo, LayerTable
from captum_rdr.zoo.paper import paper_setup
from captum_rdr.zoo.pools import dequantized
from captum_rdr.zoo.setups import Setup, explain
from captum_rdr.zoo.table import layer, layers

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
