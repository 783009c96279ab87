"""What one caller may ask for, so that all others are served: rate, memory, refusals."""
