"""Arrays in, arrays out: no clock, no input or output, nothing of the other layers."""
