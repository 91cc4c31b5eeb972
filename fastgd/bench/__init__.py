"""The benchmark behind `fastgd bench`: cases, timing, measured limits, peers, reports, plots.

`case.py` says what a case is; every room lists its own in `cases.py`. `runner.py` verifies and times them, `roofs.py`
measures what the machine does at best, `report.py` and `plot.py` show the results, `command.py` is the command line.
"""
