"""The dashboard: a page over the warehouse or the lake, to look at instead of asking. It never writes to either."""
