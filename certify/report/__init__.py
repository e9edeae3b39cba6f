"""Reports from run folders and published logs: tables, plots, and one HTML page."""

from certify.report.paired import PairedComparison, compare_paired
from certify.report.plots import plot_certified_accuracy
from certify.report.sources import Source, read_source, read_sources
from certify.report.tables import CertifiedTable, certified_table
from certify.report.write import Report, write_report

__all__ = [
    "CertifiedTable",
    "PairedComparison",
    "Report",
    "Source",
    "certified_table",
    "compare_paired",
    "plot_certified_accuracy",
    "read_source",
    "read_sources",
    "write_report",
]
