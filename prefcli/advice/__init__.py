"""Which method fits somebody's data, hardware and aims. No torch.

facts.py      what is known, and the methods there are
data.py       what is measured in the user's files: kinds of rows, noise, length bias
hardware.py   the device, and how each stage fits into its memory
situation.py  from what somebody says to facts
rules.py      the table of rules: when each applies, what it favours or rules out, why
evidence.py   the figures behind the reasons, with their sources
decide.py     from facts and rules to one recommendation, and to what would change it
script.py     lines for a shell
commands.py   the commands that carry a recommendation out
"""
