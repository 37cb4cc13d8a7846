"""Reads many objects of the lake at once, for questions, rehydration and the dashboard. Never writes."""
