"""Stage one: run a frozen VITA once over each video and write what it said to the cache."""
