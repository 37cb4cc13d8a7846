"""Settings, accounts, shards, files with secrets."""
