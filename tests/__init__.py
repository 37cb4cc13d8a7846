"""The tests: names state rules, contents of both destinations are what is asserted."""
