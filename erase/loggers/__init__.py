"""One file per logger; its name is that of the logger, of the package behind it and of the extra that installs it."""
