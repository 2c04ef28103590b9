"""What is known of hardware without having it here: data, and its readers."""
