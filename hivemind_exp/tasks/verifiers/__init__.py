"""Verifiers of generated questions: what the library's own ones accept, decided without evaluating the answer.

Each takes the answer, hostile text of at most ``LONGEST_ANSWER`` characters, and the verifier's entry, and returns
the credit in [0, 1]. Each is linear in the answer, or nearly; none evaluates, compiles or recurses over it, and none
parses a number without a bound on its digits. Near misses stay below ``FULL_CREDIT``, also where the library's own
formula rounds up to it.
"""
