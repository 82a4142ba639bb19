"""The plain way to hear of events: Anymail's own views, and a receiver that gets a row and saves it."""
