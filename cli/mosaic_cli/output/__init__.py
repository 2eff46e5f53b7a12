"""Output of the command line: console, layout, times, errors and JSON shapes."""
