"""What looks at numbers and texts while a model is trained and says what it sees."""
