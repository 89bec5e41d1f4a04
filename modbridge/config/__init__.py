"""Reading, checking and describing configs."""
