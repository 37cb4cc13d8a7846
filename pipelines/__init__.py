"""The two pipelines, the loop that runs them, and the commands around it."""
