"""Generators: reference pages, bill of materials, screenshots."""
