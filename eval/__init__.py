"""Looks at images and attacks models: metrics, probes, protocols and reports; it never changes a weight for good."""
