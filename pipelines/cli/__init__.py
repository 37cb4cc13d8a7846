"""The parts that commands share: settings and errors to exit codes, windows of time, text for a terminal."""
