"""What a person sees, in a real browser on the real stack."""
