"""What `mohs probe --explore` prints."""
