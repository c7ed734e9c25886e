"""What routes call: completion, scoring, evaluation, uploads, engines, control of jobs."""
