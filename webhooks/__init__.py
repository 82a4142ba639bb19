"""Coming in: the inbox of the providers' reports."""
