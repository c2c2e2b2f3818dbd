"""Comparisons and studies: which runs are needed, how they are trained, what they say.

In the order of one comparison (``comparison`` calls them):

- ``entries``: the lines of a comparison, read from the config.
- ``plan``: which runs are needed, each with its overrides and folder.
- ``parity``: what must be equal between them, and how equal it came out.
- ``workers``, ``training_process``: how runs are trained in parallel.
- ``run_records``: how a run folder is read back.
- ``paired_statistics``, ``intervals``: differences paired by seed, with t intervals.
- ``fits``: curves through entries: ``frontier`` and ``recurrence`` (by ``power_law``).
- ``notes``: warnings under the table.
- ``table``, ``study_table``, ``cells``: the table.
"""
