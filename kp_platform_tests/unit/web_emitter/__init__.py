"""Unit tests of the emitter library and of the site."""
