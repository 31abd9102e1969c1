"""Answers from regions: subclasses, groups of errors, depth, and checkpoints."""

from captum_rdr.discovery._atlas import Assignment, Atlas, Concept, Drift, Errors
from captum_rdr.discovery._comparison import Comparison, Matches, compare
from captum_rdr.discovery._concepts import atlas, subclasses
from captum_rdr.discovery._layerwise import Layerwise, Stage, layerwise
from captum_rdr.discovery._misclassification import (
    ErrorGroup,
    Misclassification,
    misclassification,
)
from captum_rdr.discovery._repairs import Repair

__all__ = [
    "Assignment",
    "Atlas",
    "Comparison",
    "Concept",
    "Drift",
    "ErrorGroup",
    "Errors",
    "Layerwise",
    "Matches",
    "Misclassification",
    "Repair",
    "Stage",
    "atlas",
    "compare",
    "layerwise",
    "misclassification",
    "subclasses",
]
