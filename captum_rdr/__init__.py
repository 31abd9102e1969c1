"""Relaxed Decision Regions for Captum."""

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region, regions_to_frame
from captum_rdr.version import __version__

__all__ = [
    "ConfigurationBank",
    "Region",
    "RelaxedDecisionRegion",
    "__version__",
    "regions_to_frame",
]
