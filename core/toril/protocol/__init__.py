"""What is said to the server: one description per operation, without any input or output."""
