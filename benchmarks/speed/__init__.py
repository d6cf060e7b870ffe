"""Speed: the product against a plain loop that does the same work, side by side in one process.

Every file has a ``measure`` that returns rows; ``python -m benchmarks.all`` runs them and writes one result.
"""
