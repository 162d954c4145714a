"""What runs in the rivals' own environment: imports neither visionloop nor what only its environment has."""
