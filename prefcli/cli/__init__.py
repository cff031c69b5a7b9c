"""Commands: one file each, from options to a call to what is printed."""
