"""Benchmarks: the pipeline and its peers on one machine, in one run.

    __main__.py    the run: `make bench`
    load.py        the events, and how they get into Kafka
    alert_latency.py from an event to its alert, from outside, by stage
    machine.py     CPU and memory of processes
    peer_polars.py the same job by hand: confluent-kafka and polars, nothing exact
    peer_faust.py  the same job in stock Faust, one event at a time

No figure is asserted; the table is printed, and written as JSON with --json.
"""
