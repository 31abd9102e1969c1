"""Answers from regions: subclasses, causes of errors, depth, and checkpoints."""

from captum_rdr.discovery._comparison import Comparison, Matches, compare
from captum_rdr.discovery._layerwise import Layerwise, Stage, layerwise
from captum_rdr.discovery._misclassification import (
    Cause,
    Misclassification,
    Misclassified,
    misclassification,
)
from captum_rdr.discovery._subclasses import Subclass, Subclasses, subclasses

__all__ = [
    "Cause",
    "Comparison",
    "Layerwise",
    "Matches",
    "Misclassification",
    "Misclassified",
    "Stage",
    "Subclass",
    "Subclasses",
    "compare",
    "layerwise",
    "misclassification",
    "subclasses",
]
