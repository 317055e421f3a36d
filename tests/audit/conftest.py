"""The same counted databases as the reports have, and settings on the real servers as the commands have them."""

from tests.commands.conftest import settings
from tests.reports.conftest import counted, read_only

__all__ = ["counted", "read_only", "settings"]
