"""What every connection promises, held on the fake and on the real server."""
