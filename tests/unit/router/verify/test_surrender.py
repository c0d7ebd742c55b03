"""Which answers give up, and which only hedge."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.types import Role, Turn
from router.verify.surrender import Stance, stance

PRODUCT = "What is 7 times 8?"


def of(text: str, question: str = PRODUCT, rules: str = "") -> Stance:
    turns = (Turn(Role.SYSTEM, rules),) if rules else ()
    return stance(text, (*turns, Turn(Role.USER, question)))


@pytest.mark.parametrize(
    "text",
    [
        "I am not sure: I never learned to multiply. A larger model such as demo-120b may know it.",
        "I don't know.",
        "I do not know",
        "I don\u2019t know what 7 times 8 is.",
        "**I don't know.**",
        "Answer: I don't know",
        "IDK",
        "No idea.",
        "I honestly have no clue.",
        "Sorry, I don't know the answer to that.",
        "I must admit that I don't know.",
        "I wish I knew.",
        "Beats me.",
        "I do not recall.",
        "I don't have an answer.",
        "I don't have a definitive answer to that.",
        "I lack the knowledge to answer this.",
        "I do not have the ability to multiply.",
        "As an AI language model, I do not have the capability to perform complex calculations.",
        "I am unable to multiply numbers.",
        "I cannot multiply numbers larger than 5.",
        "I can't do multiplication.",
        "I'm not good at math.",
        "I am incapable of performing such calculations.",
        "I was never taught multiplication.",
        "I've never been taught how to multiply.",
        "I haven't learned multiplication yet, so I can't help with that.",
        "I was not trained to solve this kind of problem.",
        "Nobody ever taught me multiplication.",
        "Sorry, multiplication is not something I learned.",
        "That is beyond my abilities.",
        "This is beyond what I can do.",
        "I was not built to do sums.",
        "This is beyond my capabilities, sorry. Please use a calculator.",
        "Multiplication is outside my knowledge.",
        "My training does not cover multiplication.",
        "I can only add. I don't know how to multiply.",
        "I don't know this. I know only sums.",
        "I'm just a small model and I don't know that.",
        "I'm sorry. I do not know how to answer this. I am only a demonstration model.",
        "That's a great question! Unfortunately, I don't have the answer.",
        "I'm not familiar with that topic. You may want to consult an expert.",
        "I don't know why it fails. If you share more logs, I can take another look.",
        "I don't know. Could you tell me more about it?",
        "I don't know the answer, but a larger model might.",
        "I don't think I can answer that.",
        "I do not understand multiplication.",
        "I don't know the names, dates or places.",
    ],
)
def test_who_lacks_the_knowledge_or_the_skill_gives_up(text: str) -> None:
    assert of(text) is Stance.UNABLE


@pytest.mark.parametrize(
    "text",
    [
        "I'm not sure.",
        "Not sure.",
        "I'm not certain. It's hard to say.",
        "I am not confident enough to answer this.",
        "I'm not certain about the answer to this question.",
        "I'd have to guess.",
        "I am not sure if 7 times 8 is known.",
    ],
)
def test_who_is_unsure_and_says_nothing_else_gives_up(text: str) -> None:
    assert of(text) is Stance.UNABLE


@pytest.mark.parametrize(
    "text",
    [
        "I cannot determine the cause from these logs.",
        "I'm afraid I can't tell you what that is.",
        "There is not enough information to say.",
        "It is impossible to tell without the configuration.",
        "The root cause can't be determined.",
        "The answer is unknown.",
        "The answer cannot be calculated.",
        "Unable to determine the answer.",
        "Insufficient information.",
        "#### I cannot determine",
        "I couldn't figure it out.",
        "I cannot answer this with certainty.",
        "I'm sorry, but I couldn't find an answer to your question.",
        "I could not find any information on this topic.",
        "Unfortunately, I am not able to answer this question.",
        "I apologize, but I'm not able to determine the answer. Would you like me to try something else?",
        "Based on the given information, we cannot determine how many apples Tom has.",
        "The provided text does not contain enough information to answer the question.",
    ],
)
def test_who_says_that_it_cannot_be_told_gives_up(text: str) -> None:
    assert of(text) is Stance.OPEN


@pytest.mark.parametrize(
    "text",
    [
        "Ich weiß es nicht.",
        "Das weiß ich leider nicht.",
        "Tut mir leid, das habe ich nie gelernt. Ein größeres Modell kann das vielleicht.",
        "Ich bin mir nicht sicher.",
        "Diese Frage kann ich leider nicht beantworten.",
        "No lo sé.",
        "Lo siento, no sé la respuesta.",
        "No puedo responder a esa pregunta.",
        "Nunca aprendí a multiplicar.",
        "Je ne sais pas.",
        "Désolé, je ne sais pas multiplier.",
        "Je n'ai jamais appris à multiplier.",
        "Não sei.",
        "Desculpe, não consigo calcular isso.",
        "Mi dispiace, non so la risposta.",
        "Ik weet het niet.",
        "Извините, я не могу ответить на этот вопрос.",
        "Я никогда не учился умножать.",
        "我不知道。",
        "抱歉，我没学过乘法。",
        "对不起，我无法回答这个问题。",
        "わかりません。",
        "申し訳ありませんが、わかりません。",
        "掛け算は習っていません。",
        "모르겠습니다.",
        "죄송합니다, 저는 곱셈을 배운 적이 없습니다.",
        "मुझे नहीं पता।",
        "Nie wiem.",
        "Bilmiyorum.",
        "لا أعرف.",
    ],
)
def test_surrenders_of_other_languages(text: str) -> None:
    assert of(text).gives_up


@pytest.mark.parametrize(
    "text",
    [
        "I am not sure that X is correct, the answer is 12.",
        "I am not sure, but I think it is 56.",
        "I'm not sure, maybe 56.",
        "56, but I am not sure.",
        "Paris, though I'm not certain.",
        "I'm not sure if it's Paris.",
        "I can't say for sure it's Paris.",
        "I can't say for sure, Paris most likely.",
        "I don't know the exact figure, but it is about 50.",
        "I don't know, fifty-six?",
        "It's Paris, but I cannot tell you the population.",
        "I never learned to cook, but here's a recipe: boil pasta for 9 minutes.",
        "We don't know who built it. Archaeologists date it to 2500 BC.",
        "I don't remember the exact name, but grep for retry in config.py.",
        "I'm not sure. `kubectl get pods`",
        "I'm not sure why it fails. If you have root access, run dmesg.",
        "I'm not sure why it fails. If you want the reason, run dmesg.",
        "I don't know why it failed. The system can be restarted with systemctl restart web.",
        "I don't know why it failed. Please add the missing import.",
        "I'm not sure. You can search for it with grep.",
        "`sorted(x)`. I am not sure.",
        "I don't know if this helps, but run the migration first.",
        "I can't tell the difference between these two functions; they are equivalent.",
        "Ich weiß es nicht genau, aber es sind etwa 56.",
        "Je ne suis pas sûr, mais je pense que c'est Paris.",
        "No sé con certeza, pero creo que es Madrid.",
        "我不确定，但应该是巴黎。",
        "わかりませんが、おそらく56です。",
    ],
)
def test_who_gives_a_result_hedges(text: str) -> None:
    assert of(text) is Stance.STANDS


@pytest.mark.parametrize(
    "text",
    [
        "```python\n# I don't know why this works\nassert f(2) == 4\n```",
        "// I don't know why this works\nreturn x;",
        "The comment `# I don't know` means that the author was unsure.",
        'He said "I don\'t know" and left.',
        "\u201cI don't know.\u201d",
        "> I don't know.",
        "> Paris\nI am not sure.",
        '{"answer": "I don\'t know"}',
        "You don't know what you have until it's gone.",
        "If we don't know the length, we use a while loop.",
        "The function returns None when it cannot be determined, so check for None first.",
        "The value of x is unknown to the compiler; declare it with int x.",
        "It is not possible to determine the type at compile time, so Python checks at run time.",
        "I don't know of any problem with this.",
        "I'm not aware of any bugs in this release.",
        "I cannot find any bugs in this diff.",
        "I could not find a phone number in the text.",
        "I cannot recommend this approach. Use a queue.",
        "I can't say enough good things: the code is right.",
        "I have never been happier to say that the tests pass.",
        "I didn't know that! The migration is done.",
        "Never learned, never forgotten: the motto of the school.",
        "no se puede dividir por cero",
        "We cannot divide by zero.",
        "We have not built the image yet.",
        "The connection cannot be established.",
        "The value of the variable is unknown at compile time.",
        "The path lies above my home directory.",
        "My data directory does not contain a backup.",
        "The build failed because we were not able to find the header stdio.h; install libc6-dev.",
        "We do not know x, so let x be 5 and solve 5 + 3 = 8.",
        "I don't know what to say: congratulations!",
        "",
        "...",
    ],
)
def test_what_is_cited_code_or_about_something_else_gives_nothing_up(text: str) -> None:
    assert of(text) is Stance.STANDS


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I'm sorry, but I can't help with that.", Stance.STANDS),
        ("I cannot provide instructions for that.", Stance.STANDS),
        ("I cannot tell you how to make a weapon.", Stance.STANDS),
        ("I can't answer that, since it would be unsafe.", Stance.OUT_OF_REACH),
        ("I am unable to answer: my guidelines forbid it.", Stance.OUT_OF_REACH),
        ("I won't say that, and I cannot answer this.", Stance.OUT_OF_REACH),
        ("I cannot run commands here: this request offers no shell tool.", Stance.STANDS),
        ("I don't know the weather because I have no access to live data.", Stance.OUT_OF_REACH),
        ("I don't have access to real-time data, so I don't know the weather.", Stance.STANDS),
        ("I don't know the current price: my knowledge has a cutoff.", Stance.OUT_OF_REACH),
        ("I'm not sure what you mean. Could you clarify?", Stance.STANDS),
        ("I don't know which file you mean. Please attach it.", Stance.STANDS),
        ("I don't know your name.", Stance.STANDS),
    ],
)
def test_what_no_larger_model_could_do_is_no_surrender(text: str, kind: Stance) -> None:
    assert of(text) is kind


@pytest.mark.parametrize(
    ("rules", "question", "text"),
    [
        ("Answer from the text. If you don't know, say so.", "Who wrote it?", "I don't know."),
        ("If the answer is not in the context, reply with 'I don't know'.", "Who wrote it?", "I don't know."),
        ("Do not guess.", "Who won?", "I am not sure."),
        ("Say that you are not sure rather than making things up.", "Who won?", "I'm not sure."),
        ("", 'Reply "I don\'t know" if it is not in the text. Who wrote it?', "I don't know."),
        ("", "How many? Answer with a number or 'cannot be determined'.", "Cannot be determined."),
        ("", "How many?\nA) 5\nB) 6\nC) It cannot be determined", "C) It cannot be determined"),
        ("Wenn du etwas nicht weißt, sag es.", "Wer war das?", "Ich weiß es nicht."),
        ("如果不知道，请说不知道。", "谁赢了?", "我不知道。"),
        ("", "Translate 'Ich weiß es nicht' to English.", "I don't know."),
        ("", "How do I say I don't know in French?", "Je ne sais pas."),
        ("", "Write a short poem about doubt.", "I do not know the way to go."),
    ],
)
def test_who_was_told_to_say_so_obeys(rules: str, question: str, text: str) -> None:
    assert of(text, question, rules) is Stance.TOLD_TO
    assert of(text).gives_up  # and without being told it is a surrender


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Write a function that sorts a list.", "I don't know how to write that in Rust."),
        ("Translate 'Guten Tag' into Finnish.", "I am sorry, I never learned to translate Finnish."),
        ("Can you tell me what 7 times 8 is?", "Sorry, no, I don't know."),
        ("Do you know what the capital of France is?", "I don't know."),
        ("I don't know this: what is 7 times 8?", "I don't know."),
    ],
)
def test_a_request_that_allows_nothing_excuses_nothing(question: str, text: str) -> None:
    assert of(text, question) is Stance.UNABLE


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Do you know Bob?", "No, I don't know Bob."),
        ("Can you multiply?", "No, I never learned to multiply."),
        ("What can you not do?", "I cannot do math."),
        ("Can the halting problem be solved?", "No, it cannot be solved."),
        ("Is the information enough to find x?", "There is not enough information."),
        ("Can I know the size of an object?", "In JavaScript, it is impossible to know the size of an object."),
        ("Is x^2 = -1 solvable in the reals?", "It is impossible to solve x^2 = -1 in the reals."),
    ],
)
def test_where_knowing_is_what_was_asked_it_is_the_result(question: str, text: str) -> None:
    assert of(text, question) is Stance.STANDS


def test_facts_that_end_in_giving_up_are_no_result() -> None:
    facts = "The logs show that the service restarted twice. "
    given_up = "Therefore, it is not possible to determine the cause based on the information provided."
    assert of(facts + given_up, "Why did it fail?") is Stance.OPEN
    assert of(given_up + " The disk is full, which explains it.", "Why did it fail?") is Stance.STANDS
    assert of("Paris is the capital. I cannot determine its mayor.", "What is the capital of France?") is Stance.STANDS


def test_a_long_answer_says_something() -> None:
    assert of("I don't know. " * 20) is Stance.UNABLE
    assert of("I don't know. " * 60) is Stance.STANDS


def test_only_the_caller_excuses() -> None:
    told = Turn(Role.TOOL, "If you do not know, say so.")
    assert stance("I don't know.", (told, Turn(Role.USER, PRODUCT))) is Stance.UNABLE
    asked = Turn(Role.USER, "If you do not know, say so.")
    assert stance("I don't know.", (asked, Turn(Role.USER, PRODUCT))) is Stance.TOLD_TO


@given(st.text(max_size=600), st.text(max_size=300))
@settings(max_examples=100)
def test_any_text_has_a_stance(text: str, question: str) -> None:
    assert of(text, question) is of(text, question)


@given(st.integers(100, 10**6), st.sampled_from(["I'm not sure, but it is {}.", "{}. I am not sure.", "Maybe {}?"]))
@settings(max_examples=50)
def test_a_number_that_was_not_given_is_a_result(number: int, form: str) -> None:
    assert of(form.format(number)) is Stance.STANDS
