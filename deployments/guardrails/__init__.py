"""What may not be said to a model, or by one: personal data, secrets, and orders that hide in other people's text."""
