"""What gomodel costs, measured beside other proxies on the same machine in the same minutes: `python -m bench`.

Not part of the installed package. A time measured on a shared machine means little; a ratio taken in one run, in
alternating turns, means a lot. So CPU time of the process tree per unit of work is the figure, nginx is the yardstick,
and no ratio is printed for a run that saw an error.
"""
