"""Verifiers of generated questions. They accept what the library's verifiers accept, but never evaluate the answer.

Each verifier takes the answer (untrusted text of at most ``LONGEST_ANSWER`` characters) and the verifier's entry, and
returns the credit in [0, 1]. Each takes linear or nearly linear time in the answer's length. None of them evaluates,
compiles or recurses over the answer, and none parses a number without a limit on its digits. Near misses stay below
``FULL_CREDIT``, even where the library's formula rounds up to it.
"""
