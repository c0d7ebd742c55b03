"""Small made-up label sets: enough to learn from, nothing to conclude from."""

import numpy as np

from serve_app.routing.data import Labelled, key_of

_WORDS = ("river", "engine", "contract", "enzyme", "orbit", "ledger", "prime", "voltage", "poem", "harbour")


def labelled(
    n: int, seed: int = 0, set_name: str = "made up", *, tasks: int = 3, answers: bool = False
) -> list[Labelled]:
    """Rows whose hard words tell who fails: `prime` is what the strong model helps with, `poem` what both fail at."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        words = draw.choice(_WORDS, 12).tolist()
        weak = 0.9 - 0.5 * ("prime" in words) - 0.3 * ("poem" in words)
        strong = 0.95 - 0.35 * ("poem" in words)
        prompt = f"{seed}-{number}: how does the {' '.join(words)} work?"
        rows.append(
            Labelled(
                row_id=str(number),
                key=key_of(prompt),
                set_name=set_name,
                prompt=prompt,
                weak_ok=float(draw.random() < weak),
                strong_ok=float(draw.random() < strong),
                task=f"task {number % tasks}" if tasks else "",
                lang="en",
                weak_answer=f"{number} + 1 = {number + int(draw.integers(1, 3))}\n#### {number}" if answers else None,
            )
        )
    return rows
