"""Claims of the literature, tried on the starter base: python -m pipeline.evidence makes docs/evidence.md.

What is tried, with which settings and seeds, and when it counts as seen stands in claims.toml and verdicts.py, which
are committed before the runs. Every run leaves a row in docs/evidence.jsonl; the page is made from the rows alone.
"""
