"""Imported by the forkserver alone, for what it does: a signal to the whole group is for the jobs, which save and end.

The server itself ends when the sweep does; without it, nobody would learn what has become of a job.
"""

from __future__ import annotations

import signal

from kdrun.stopping import SIGNALS

for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)
