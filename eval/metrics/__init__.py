"""One file per metric; the file name is the metric's name and its class is that name in capitals and lower case."""
