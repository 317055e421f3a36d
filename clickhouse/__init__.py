"""What remembers: tables, questions and answers. Decides nothing and never sees ``pipeline``.

In the order of reading:

    migrations/    the tables and views as plain SQL, frozen once released
    queries/       one page per question; the file's first line asks it in plain words
    client.py      one client for the embedded engine and a server; its errors become ours here
    counting.py    what counting asks and writes, every question as of a block
    reports.py     what reports ask; audit.py, stored_alerts.py what the audit asks
    migrate.py     applies the migrations
    embedded.py    the embedded engine; http_protocol.py, http_server.py: ClickHouse's HTTP interface in front of it
"""
