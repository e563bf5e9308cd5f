"""The client packages that people use, unmodified, against a gomodel process in front of a simulated or a real vLLM.

`python3 -m clients` sets up what it needs and runs all of it; `python3 -m clients test_langchain.py -k tools` a part.
"""
