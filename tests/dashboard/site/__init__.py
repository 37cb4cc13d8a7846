"""What the tests of the pages look at, and how they read it."""
