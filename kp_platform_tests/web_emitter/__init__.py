"""Tests of the emitter: a real librdkafka producer without a broker, and without other servers but
for the searches, whose fakes and whose real Elasticsearch pass the same contract."""
