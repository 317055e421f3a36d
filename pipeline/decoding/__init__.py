"""How a raw record becomes events: ``pipeline/decode.py`` is the entry, these are its parts.

The scalar specification, in the contract's order: ``reading`` turns bytes and headers into candidates (with
``json_text``), or says why the record is unreadable as a whole; ``judging`` holds one candidate against the contract;
``one`` joins both into ``decode_one``.

The fast path, for ordinary records: ``units`` takes records apart, ``gathering`` decodes them slice by slice into
``texts`` and ``quantities`` (``foreign`` translates usage objects of other systems), ``columns`` checks whole columns
(times in ``instants``). What is not certainly valid there goes the scalar way, and ``frames`` puts both together again.
"""
