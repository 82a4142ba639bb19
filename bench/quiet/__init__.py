"""The service, but that nobody is written to: what registration costs without its mail."""
