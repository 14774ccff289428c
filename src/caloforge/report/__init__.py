"""What people see of an evaluation: a page, figures, and tables of many models."""

from caloforge.report.compare import Comparison, compare_files, compare_reports
from caloforge.report.published import PublishedTable, published_tables, tables_for
from caloforge.report.summary import shared_line, summary_lines
from caloforge.report.tables import score_rows, summary_table
from caloforge.report.write import ReportFiles, claim_folder, load_report, write_report

__all__ = [
    "Comparison",
    "PublishedTable",
    "ReportFiles",
    "claim_folder",
    "compare_files",
    "compare_reports",
    "load_report",
    "published_tables",
    "score_rows",
    "shared_line",
    "summary_lines",
    "summary_table",
    "tables_for",
    "write_report",
]
