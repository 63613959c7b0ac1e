"""Runs and studies that are there already: what they are, and what can be made of them."""
