"""Would the tests notice? Single faults, put into a copy of the code one at a time, and the tests that ought to see it.

faults.toml    the faults: where, what becomes what, which tests are run, and why somebody might make it
__main__.py    puts them in and runs the tests; what came of it is kept in mutant-runs/, so that it resumes
"""
