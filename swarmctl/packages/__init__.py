"""What is installed from the Python package index when it is used for the first time."""
