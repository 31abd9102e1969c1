"""How much a region is worth: tests, label metrics and causal effect."""

from captum_rdr.method.region import Significance
from captum_rdr.metrics._ablation import Ablation, PairedEffect, ablation
from captum_rdr.metrics._labels import coverage, purity
from captum_rdr.metrics._significance import significance

__all__ = [
    "Ablation",
    "PairedEffect",
    "Significance",
    "ablation",
    "coverage",
    "purity",
    "significance",
]
