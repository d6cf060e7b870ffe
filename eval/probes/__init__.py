"""One file per recovery probe: is the concept gone, or only avoided?"""
