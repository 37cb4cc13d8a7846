"""The proof: API, warehouse and lake compared hour by hour, and what is missing filled in."""
