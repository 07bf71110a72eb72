"""A fourth flow for tests: the folder `orders` with its four files."""
