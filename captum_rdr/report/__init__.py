"""A report on many regions: one HTML file to look at."""

from captum_rdr.report.writing import write_report

__all__ = ["write_report"]
