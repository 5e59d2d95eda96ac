"""What the commands print and take."""
