"""From surprisal to a decision: statistics of a line, one score, calibration, spans and their evaluation.

NumPy only. Knows no HTTP, no storage and, but for `explain`, no network: it takes what
`models.runtime.scoring` read.
"""
