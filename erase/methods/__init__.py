"""One file per erasure method; the file name is the method's name everywhere."""
