"""Generators that are no tests: reference pages, bill of materials, screenshots."""
