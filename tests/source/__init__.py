"""The source: windows, pages, decoding, and the simulator that speaks as the API does."""
