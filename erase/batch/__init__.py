"""Batches: many models made, scored, attacked and put into one table from one file, on any number of machines."""
