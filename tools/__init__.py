"""Programs around the project: curves of runs, and the pictures of README and docs."""
