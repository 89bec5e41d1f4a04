"""What modbridge-ray brings: the engine `ray`."""
