"""Unusual and invalid messages as data: each with its reason and the expected result."""
