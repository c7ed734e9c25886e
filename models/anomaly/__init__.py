"""From surprisal to a decision: statistics of a line, its score, calibration, anomalous spans, evaluation."""
