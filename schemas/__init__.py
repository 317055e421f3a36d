"""What things are. Every other folder imports from here; this one imports only validation and frame libraries.

In the order of reading:

    event.py        a usage event as the contract says it, in pydantic models; event_values.py reads single values
    vocabularies.py what other systems call their counts; translation.py makes our quantities of them
    published.py    what comes out: refusals and alerts
    rejects.py      why an event was refused: the closed list of reasons
    secrets.py      what a raw secret looks like
    variants.py     what a request was besides its model: service tier, batch, speed, region
    records.py      a raw record as the broker gave it
    frames.py       a batch between the stages: events, usage, lines, kinds
    counted.py      what counting leaves behind: known facts, repeats, totals
    price_book.py   price books; period_prices.py: prices of a month's totals; books_in_force.py: all books together
    rules.py        rule sets; catalog_file.py: a file of both; catalog_values.py, currencies.py: single values
    providers.py    other names of providers
    catalog_diff.py what a new revision changes
    reports.py      what a report is asked for and made of
    topics.py       topic names
    errors.py       trouble, by what the caller can do about it
    generate.py     writes JSON Schema and AsyncAPI from all this (docs/schemas)
"""
