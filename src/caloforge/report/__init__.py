"""What people see of an evaluation: a page, figures, and tables of many models."""

from caloforge.report.compare import Comparison, compare_reports
from caloforge.report.published import PublishedTable, published_tables, tables_for
from caloforge.report.write import ReportFiles, load_report, write_report

__all__ = [
    "Comparison",
    "PublishedTable",
    "ReportFiles",
    "compare_reports",
    "load_report",
    "published_tables",
    "tables_for",
    "write_report",
]
