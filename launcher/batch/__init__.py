"""Scoring and completing the lines of files, on one machine or a Ray cluster, without the service."""
