"""The same counted database as the reports have."""

from tests.reports.conftest import counted

__all__ = ["counted"]
