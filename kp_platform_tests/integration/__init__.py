"""The way of an event on the five real servers."""
