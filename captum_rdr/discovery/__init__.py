"""Answers from regions: subclasses, causes of errors, depth, and checkpoints."""

from captum_rdr.discovery._atlas import Assignment, Atlas, Concept, Drift, Errors
from captum_rdr.discovery._comparison import Comparison, Matches, compare
from captum_rdr.discovery._concepts import atlas, subclasses
from captum_rdr.discovery._layerwise import Layerwise, Stage, layerwise
from captum_rdr.discovery._misclassification import (
    Cause,
    Misclassification,
    Misclassified,
    misclassification,
)

__all__ = [
    "Assignment",
    "Atlas",
    "Cause",
    "Comparison",
    "Concept",
    "Drift",
    "Errors",
    "Layerwise",
    "Matches",
    "Misclassification",
    "Misclassified",
    "Stage",
    "atlas",
    "compare",
    "layerwise",
    "misclassification",
    "subclasses",
]
