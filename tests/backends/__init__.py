"""What only one of the backends has to prove."""
