"""A model and a data set -> what it is worth."""
