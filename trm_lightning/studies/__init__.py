"""Comparisons: which runs are needed, training them, and what they say when set side by side.

``entries`` and ``plan`` turn a config into runs, ``running`` trains them, ``record`` reads them
back, ``summary`` and ``notes`` make the numbers, ``table`` prints them; ``session`` does one after
the other. ``studies`` fit curves through entries: ``frontier`` and ``recurrence``.
"""
