"""What a text is to a model: characters and ids, masks, and counts of character n-grams."""
