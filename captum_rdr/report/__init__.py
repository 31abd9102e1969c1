"""Pages to look at: a report on many regions, and an atlas of concepts."""

from captum_rdr.report.atlas import write_atlas
from captum_rdr.report.writing import write_report

__all__ = ["write_atlas", "write_report"]
