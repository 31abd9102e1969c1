"""Answers from regions: subclasses, causes of errors, depth, and checkpoints."""

from captum_rdr.discovery.comparison import Comparison, compare
from captum_rdr.discovery.errors import Cause, Misclassification, Misclassified
from captum_rdr.discovery.layerwise import Layerwise, Stage, layerwise
from captum_rdr.discovery.misclassification import misclassification
from captum_rdr.discovery.subclasses import Subclass, Subclasses, subclasses

__all__ = [
    "Cause",
    "Comparison",
    "Layerwise",
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
