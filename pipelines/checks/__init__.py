"""The doctor's checks, in the order of the way of an event: this host, the API, the warehouse, the lake."""
