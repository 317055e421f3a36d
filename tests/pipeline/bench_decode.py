"""What decoding costs: ``python tests/pipeline/bench_decode.py`` prints microseconds of CPU per event.

The events are the same in every run (their checksum is asserted), so the code is measured and not the data. One thread;
the best of several runs, because the machine's other work only ever adds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # noqa: TID251 -- before polars is imported: one core is measured

from pipeline.decode import Limits, decode
from tests.pipeline.event_examples import BATCH, STRUCTURED, compact, make_binary_record, make_record, ordinary_events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from schemas.records import RawRecord

EVENTS = 10_000
CHECKSUM = "9f25f132b6161dc171b04e2e9140da52e61f6bdb39478b87baf8dc4ed16f918b"
BATCH_SIZE = 100
_SPARE = {"environment", "user", "status"}


def main() -> None:
    """Measure each kind of input and print one line per kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    events = ordinary_events(EVENTS)
    values = [compact(event) for event in events]
    digest = hashlib.sha256(b"\n".join(values)).hexdigest()
    if digest != CHECKSUM:
        sys.exit(f"the events are not the ones that were measured before: {digest}")
    print(f"{EVENTS} events, {len(b''.join(values)) // EVENTS} bytes each; best of {runs} runs")  # noqa: T201
    for name, records in _kinds(events).items():
        microseconds = _cpu_seconds(records, runs=runs) / EVENTS * 1e6
        print(f"{name:58s} {microseconds:8.2f} µs CPU/event")  # noqa: T201


def _kinds(events: Sequence[dict[str, Any]]) -> dict[str, list[RawRecord]]:
    def records(change: Callable[[int, dict[str, Any]], Any], **about: Any) -> list[RawRecord]:
        return [make_record(compact(change(i, event)), offset=i, **about) for i, event in enumerate(events)]

    batches = [events[at : at + BATCH_SIZE] for at in range(0, EVENTS, BATCH_SIZE)]
    return {
        "ordinary, structured, no headers": records(lambda _, event: event),
        "the same without environment, user and status (316 bytes)": records(
            lambda _, event: event | {"data": {k: v for k, v in event["data"].items() if k not in _SPARE}}
        ),
        "ordinary, structured, with a content-type header": records(lambda _, event: event, headers=STRUCTURED),
        "with datacontenttype and traceparent": records(
            lambda _, event: {"datacontenttype": "application/json", "traceparent": "00-0af7651916cd43dd-01"} | event
        ),
        "with a variant": records(lambda _, event: _with_data(event, variant={"service_tier": "flex", "batch": True})),
        "with three tags": records(lambda _, event: _with_data(event, tags={"team": "a", "region": "eu", "tier": "1"})),
        "decimal string and fractional quantities": records(
            lambda i, event: _with_data(event, usage={"seconds": "12.5", "gb_hours": 0.125 + i, "pages": 3})
        ),
        "a usage object of OpenAI's": records(lambda _, event: _with_data(event, **_openai(event["data"]["usage"]))),
        "offset +00:00 instead of Z": records(lambda _, event: event | {"time": event["time"].replace("Z", "+00:00")}),
        "explicit null for three optional fields": records(
            lambda _, event: _with_data(event, user=None, model=None, tags=None)
        ),
        "an undeclared extension attribute": records(lambda _, event: event | {"myext": "x"}),
        "escaped slash in the source, as PHP writes it": [
            make_record(compact(event).replace(b"/", b"\\/"), offset=i) for i, event in enumerate(events)
        ],
        "binary mode": [
            make_binary_record(compact(event["data"]), **{k: v for k, v in event.items() if k != "data"})
            for event in events
        ],
        f"batch mode, {BATCH_SIZE} events a record": [make_record(compact(batch), headers=BATCH) for batch in batches],
        f"batch mode, {BATCH_SIZE} events a record, one of them bad": [
            make_record(compact([*batch[1:], batch[0] | {"id": ""}]), headers=BATCH) for batch in batches
        ],
        "1 % rejected (bad id)": records(lambda i, event: event if i % 100 else event | {"id": ""}),
        "all rejected: bad id": records(lambda _, event: event | {"id": ""}),
        "all rejected: raw secret": records(lambda _, event: _with_data(event, api_key="sk_live_4eC39HqLyjWDarjtT1")),
        "all rejected: repeated name": [
            make_record(compact(event)[:-1] + b',"id":"again"}', offset=i) for i, event in enumerate(events)
        ],
        "all rejected: not JSON": [make_record(compact(event)[:-1], offset=i) for i, event in enumerate(events)],
        "all rejected: no value": [make_record(None, offset=i) for i in range(len(events))],
    }


def _with_data(event: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return event | {"data": event["data"] | changes}


def _openai(usage: dict[str, int]) -> dict[str, Any]:
    """The same quantities as OpenAI's chat completions say them."""
    prompt = usage["input_tokens"] + usage["cache_read_tokens"]
    said = {
        "prompt_tokens": prompt,
        "completion_tokens": usage["output_tokens"],
        "total_tokens": prompt + usage["output_tokens"],
        "prompt_tokens_details": {"cached_tokens": usage["cache_read_tokens"], "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    return {"vocabulary": "openai", "usage": said}


def _cpu_seconds(records: list[RawRecord], *, runs: int) -> float:
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        decode(records, limits=Limits())
        best = min(best, time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
