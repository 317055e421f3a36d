"""The same installation on the real broker as the commands have."""

from tests.commands.conftest import installed, settings

__all__ = ["installed", "settings"]
