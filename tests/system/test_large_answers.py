"""What the store answers is what it holds, however much is asked for at the same time."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pyarrow as pa
import pytest
import urllib3

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.servers


def test_large_answers_that_are_read_at_the_same_time_arrive_whole(store: str) -> None:
    """An answer is the engine's own memory; it must not be taken back before it is sent."""
    url = urlunsplit(urlsplit(store)._replace(path="/"))
    pool = urllib3.PoolManager(maxsize=6)

    def asked(first: int) -> NDArray[np.uint64]:
        sql = f"SELECT number + {first:d} AS n FROM numbers(200000) FORMAT Arrow"  # noqa: S608
        answer = pool.request("POST", url, body=sql.encode())
        column = pa.ipc.open_file(io.BytesIO(answer.data)).read_all().column("n")
        numbers: NDArray[np.uint64] = column.to_numpy()
        return numbers

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(asked, range(200)))
    pool.clear()

    for first, numbers in enumerate(answers):
        assert np.array_equal(np.sort(numbers), np.arange(first, first + 200_000, dtype=np.uint64))
