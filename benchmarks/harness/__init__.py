"""The HTTP benchmark, one noun per module. Later ones use earlier ones, never the reverse.

process   a process tree: its CPU time, memory and pids
peers     peers.txt: versions, commands, what is missing
load      one run of a load generator; those of load/
wrk, h2load   the two that others wrote
certificate   for the servers with TLS
wire      what each variant of a server is asked and must answer
server    a server under test: command, readiness, check of the answer, end
cases     the cases as data
measure   one sample of one case on one server
results   samples, medians, ratios, JSON
bars      the bars as data, and the regression gate
tables    text and Markdown tables
plot      bar charts
machine   what the figures were measured on
options   the command line
"""
