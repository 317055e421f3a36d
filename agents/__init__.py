"""What moves. An agent reads, calls one pure stage, and carries out its answer; it has no opinion about the business.

In the order of reading:

    app.py         the Faust app: two topics, two agents, their life
    chunks.py      the transport: whole runs of a partition instead of single records
    batching.py    holds chunks until a batch is worth it
    price.py       usage.events → usage.priced, refusals → usage.rejected
    count.py       usage.priced → ClickHouse, conflicts → usage.rejected
    publishing.py  producing in order, awaited
    raw_log.py     single raw records by their coordinates
    rejects.py     refusals as rows and messages
    retrying.py    waiting for a server that is away
    catalog_follower.py  the price books in force
    auditor.py     proves the newest books now and then, on one worker
    metrics.py, health.py  what ops sees
    wiring.py      what an agent is given
"""
