"""Weights of the answer checks, in the order of `CHECKS`. Written by `serve_app/routing/answers.py`.

Learned from 657 answers of routellm_gsm8k (Apache-2.0 (RouteLLM: labels, answers); MIT (GSM8K: questions)).
SHA-256 of the row ids, in order: 6ea56d97805932963d93bceff625c3358cf4ec68c8dd175ef391152f6d4d1e7c
"""

from typing import Final

BIAS: Final = -1.307
WEIGHTS: Final = (
    2.5728,  # false_equations
    0.3662,  # near_equations
    0.9895,  # rounded_equations
    0.3211,  # no_equation
    0.7118,  # one_equation
    -0.2135,  # steps_per_given
    0.2783,  # many_operands
    0.672,  # repeated_equations
    0.0015,  # ungrounded_operands
    -0.0974,  # invented_operands
    -0.2187,  # conversions
    0.1116,  # reused_givens
    0.3608,  # unused_givens
    0.7445,  # uncalculated_share
    0.3478,  # dead_ends
    0.553,  # missing_subtraction
    0.1723,  # final_not_last
    0.0455,  # final_not_reckoned
    2.1423,  # final_fractional
    -0.0358,  # final_fractional_count
    3.0245,  # final_long
    -0.3953,  # final_negative
    -0.0267,  # final_size
    0.6352,  # fraction_from_whole
    0.5464,  # periodic_fraction
    2.5998,  # breaks_off
    0.1216,  # hedges
    1.0316,  # turns_back
    0.8559,  # unknowns
)
