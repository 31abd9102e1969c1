"""How much a region is worth: tests, label metrics, stability and causal effect."""

from captum_rdr.method.region import Significance
from captum_rdr.metrics._ablation import Ablation, PairedEffect, ablation
from captum_rdr.metrics._labels import Enrichment, coverage, enrichment, purity
from captum_rdr.metrics._significance import significance
from captum_rdr.metrics._stability import (
    Generalization,
    Stability,
    generalization,
    stability,
)

__all__ = [
    "Ablation",
    "Enrichment",
    "Generalization",
    "PairedEffect",
    "Significance",
    "Stability",
    "ablation",
    "coverage",
    "enrichment",
    "generalization",
    "purity",
    "significance",
    "stability",
]
