"""Comparisons and studies: which runs are needed, how they are trained, what they say.

In the order of one comparison (``comparison`` calls them):

- ``budgets``: limits of the runs by name: smoke, laptop, gpu.
- ``entries``: the lines of a comparison, read from the config.
- ``plan``: which runs are needed, each with its overrides and folder.
- ``parity``: what must be equal between them, and how equal it came out.
- ``workers``, ``training_process``, ``warm_start``, ``cluster``: how runs are trained in parallel,
  here or as jobs.
- ``run_records``: how a run folder is read back.
- ``paired_statistics``, ``intervals``: differences paired by seed, with t intervals.
- ``fits``: curves through entries: ``frontier``, ``recurrence`` (by ``power_law``), ``trend``.
- ``measures``: what is measured of each run, by ``probes``; ``breaks`` looks for breaks in it.
- ``notes``: warnings under the table.
- ``table``, ``study_table``, ``cells``: the table.

``search`` and ``search_space`` are the search for settings, whose trials are trained alike.
"""
