"""Stage one as a stream, from reading to writing; `run` puts it together."""
