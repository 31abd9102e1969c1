"""How much a region is worth: tests, label metrics, stability and causal effect."""

from captum_rdr.metrics.ablation import Ablation, ablation
from captum_rdr.metrics.coherence import Coherence, coherence
from captum_rdr.metrics.generalization import Generalization, generalization
from captum_rdr.metrics.labels import (
    Enrichment,
    coverage,
    enrichment,
    entropy,
    purity,
)
from captum_rdr.metrics.paired import PairedEffect
from captum_rdr.metrics.precision import precision_at_size
from captum_rdr.metrics.significance import (
    benjamini_hochberg,
    significance,
    with_significance,
)
from captum_rdr.metrics.stability import Stability, plot_stability, stability

__all__ = [
    "Ablation",
    "Coherence",
    "Enrichment",
    "Generalization",
    "PairedEffect",
    "Stability",
    "ablation",
    "benjamini_hochberg",
    "coherence",
    "coverage",
    "enrichment",
    "entropy",
    "generalization",
    "plot_stability",
    "precision_at_size",
    "purity",
    "significance",
    "stability",
    "with_significance",
]
