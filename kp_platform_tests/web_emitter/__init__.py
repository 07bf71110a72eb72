"""Tests of the emitter without servers; a real librdkafka producer, but no broker."""
