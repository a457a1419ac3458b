"""Every measured figure of README.md and docs/*.md, made from the files in benchmarks/results.

    make docs        (python -m benchmarks.figures)

A page marks a figure by two comments, which do not show on GitHub:

    a decision takes <!-- figure plan-p50 -->0.04 ms<!-- end --> of CPU time

or, for a table, on lines of their own. A number without marks must be in allowed.toml, with the reason why it is not
measured. A test fails where a figure differs from its result file, and where a number has neither marks nor a reason.
"""
