"""Text processing: vocabularies, masks, log detection and character n-grams."""
