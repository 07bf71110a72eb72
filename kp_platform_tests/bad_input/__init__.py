"""What may be on a topic besides good events, as data: cases, why each is there, the answer."""
