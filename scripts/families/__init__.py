"""Tiny random models of many families, and the matrix of all stages that is run on them (`make families`)."""
