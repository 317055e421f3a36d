"""The store of the settings: its address, and a connection to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clickhouse.client import Store, StoreAddress, parse_store_url

if TYPE_CHECKING:
    from tally.settings import Settings


def store_address(settings: Settings) -> StoreAddress:
    """Where the store is and how to log in.

    Raises:
        WrongUse: the URL has no usable port.
    """
    password = settings.store_password
    return parse_store_url(
        settings.store_url.get_secret_value(),
        user=settings.store_user,
        password=None if password is None else password.get_secret_value(),
        cafile=settings.store_ssl_cafile,
    )


def open_store(settings: Settings) -> Store:
    """A connection of its own to the store; close it.

    Raises:
        StoreUnavailable: it can't be reached.
        StoreRefused: the login is refused, or there is no database yet.
    """
    return Store(store_address(settings))
