"""Side-by-side measurements, each runnable by one command, with results as JSON."""
