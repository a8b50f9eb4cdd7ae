"""One file per command; heavy imports stand inside the commands, so that `--help` is quick."""
