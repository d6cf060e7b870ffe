"""Trains a small class-conditional model from nothing: classifier, VAE, DiT."""
