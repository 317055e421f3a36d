"""Which alerts fire and end: ``pipeline/judge.py`` is the entry, these are its parts.

Who judges: ``calendar`` and ``rolling`` new facts, ``control`` a change of the rules, ``corrections`` restated costs.
What they find are ``turns``, which ``alerts`` writes out in full: as rows for the store and as messages.

What they judge by: ``measure`` says what a rule's value is and when it crosses a limit, ``window_times`` where a window
begins and ends, ``new_facts`` groups a run's facts by windows, and ``steps`` are the questions to the store.

What they remember: ``memory``, made of ``page``s of sums that are exact (``wide``).
"""
