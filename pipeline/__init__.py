"""What decides. Pure: no clock, file, environment or network; every stage takes and returns columns.

The way of an event, in the order of the files that decide; a folder holds the parts of the file it is named after:

    decode.py      raw records → valid events, or refusals with a reason       (decoding/)
    price.py       events × price books → events with cost, lines, price ids   (pricing/, decimal_columns.py)
    route.py       events → blocks, one per partition of usage.priced, by org  (block.py is their wire form)
                   ── usage.priced: the log that decides everything below ──
    identities.py  which identities were counted already, by hash: a filter
    dedupe.py      new, replay, duplicate or conflict
    fold.py        new facts × totals before → totals after                    (lanes.py remembers totals)
    judge.py       new facts × rules in force × windows before → alerts        (judging/)
    correct.py     correction blocks → what events cost now                    (reprice.py makes them)
    count.py       all of that for a run of blocks, as a list of steps for the agent to carry out
    conflicts.py   a conflict as a refusal
    replay.py      the whole way over a list of records: the specification that runs, on the model of the store that
                   memory_store.py and memory_alerts.py are

    catalog.py     reads a file of prices and rules, with line and column of every mistake (catalog_yaml.py: the YAML)
    report.py      figures of a report: rounding, shares, largest remainder
    period_price.py  tiers, packages and minimums on a month's totals
    bridge.py      why one span cost more than another, in parts that sum to the difference
    periods.py     what "2026-03" or "2026-W10" spans
"""
