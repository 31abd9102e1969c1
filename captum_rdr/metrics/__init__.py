"""How much a region is worth: tests, label metrics, stability and causal effect."""

from captum_rdr.metrics.coherence import Coherence, coherence
from captum_rdr.metrics.significance import (
    benjamini_hochberg,
    significance,
    with_significance,
)

__all__ = [
    "Coherence",
    "benjamini_hochberg",
    "coherence",
    "significance",
    "with_significance",
]
