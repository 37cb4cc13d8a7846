"""The settings: values, accounts, shards, secret files. Read once, checked at once, frozen."""
