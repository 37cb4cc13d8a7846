"""The API as the settings say: windows read in parts, each page fetched and decoded once."""
