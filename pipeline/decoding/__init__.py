"""How a raw record becomes events: ``pipeline/decode.py`` is the entry, these are its parts.

``reading`` turns bytes and headers into candidates (or says why the record is unreadable as a whole), ``judging`` holds
one candidate against the contract, ``one`` joins both into the scalar specification ``decode_one``, ``columns`` is the
fast path for a batch of ordinary records, and ``frames`` builds what comes out.
"""
