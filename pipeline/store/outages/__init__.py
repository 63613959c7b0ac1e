"""A store that does not answer: what is an outage, what is not, and how to wait for its end."""
