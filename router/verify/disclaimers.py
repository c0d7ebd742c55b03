r"""The words in which an answer disowns itself: it does not know, it cannot tell, it never learned to.

Patterns over lower-case text with plain apostrophes and single spaces; each is linear in a segment of a sentence.
"""

import re
from typing import Final

_ADVERBS: Final = (
    r"(?: (?:also|still|just|really|honestly|actually|simply|personally|truly|currently|unfortunately|sadly|yet|even|"
    r"definitively|reliably|accurately|confidently|exactly|precisely|fully|directly|possibly|ever|been|specifically|"
    r"properly|correctly|certainly))*"
)
_LACKED: Final = (
    r"(?:answers?|knowledge|information|info|data|idea|clue|context|expertise|skills?|abilit(?:y|ies)|"
    r"capabilit(?:y|ies)|capacity|training|details|facts|understanding|memory|recollection|evidence|know-how)\b"
)
_SUMS: Final = (
    r"(?:maths?|mathematics|arithmetic|sums?|additions?|multiplications?|divisions?|subtractions?|algebra|"
    r"calculations?|calculus|computations?|conversions?|translations?|products?)\b"
)
# A bug that is not there is a finding; so is what a given text does not hold.
_FINDING: Final = (
    r"(?! (?:(?:any|an?|the|no|other|further)(?: [\w-]+){0,2} |any)?(?:bugs?|problems?|issues?|errors?|faults?|"
    r"flaws?|mistakes?|vulnerabilit\w+|defects?|regressions?|evidence|signs?|reasons? (?:not )?to|differences?|"
    r"anything|wrong|mention|records?|entr(?:y|ies)|occurrences?)\b)(?!.{0,80}\b(?:in|within|among) (?:the|this|your|"
    r"these|that))"
)
_TELL: Final = (
    r"(?:determin(?:e|ing)|answer(?:ing)?|calculat(?:e|ing)|comput(?:e|ing)|conclud(?:e|ing)|deduc(?:e|ing)|"
    r"deriv(?:e|ing)|infer(?:ring)?|solv(?:e|ing)|know(?:ing)?|tell(?:ing)?(?! you (?:how|that|more|enough|about)\b)|"
    rf"say(?:ing)?(?! (?:enough|no\b|more|this|thanks))|(?:find|identify|locate|pinpoint){_FINDING}|"
    r"establish(?! a)|figure (?:it|this|that|out)|work (?:it|this|that|out))\b"
)
_DO: Final = (
    r"(?:multiply(?:ing)?|subtract(?:ing)?|divid(?:e|ing)|add (?:up|numbers|these|those|them|two)|recall|remember|"
    r"estimat(?:e|ing)|guess|evaluat(?:e|ing)|count(?! on\b)|translat(?:e|ing)|"
    rf"(?:do|doing|perform(?:ing)?|handl(?:e|ing))(?: (?:the|any|this|that|such|these|those|basic|simple|"
    rf"complex))*(?: \w+)? {_SUMS}|"
    r"(?:giv(?:e|ing)|provid(?:e|ing)|offer(?:ing)?|produc(?:e|ing)|com(?:e|ing) up with)(?: you)?(?: with)? (?:an?|"
    r"the|any)(?: \w+){0,2} (?:answer|solution|result|value|estimate|conclusion|diagnosis)|"
    r"(?:write|writing|summari[sz]e|rewrite|compose|explain(?:ing)?)\b(?= (?:this|that|it|in|such)\b))"
)
_UNABLE: Final = (
    rf"{_ADVERBS}(?: (?:can(?:not|'t| not|t)|could(?: not|n't)|fail(?:ed)? to|do(?: not|n't) know how to)|"
    rf"(?: (?:am|are|was|were)|'m|'re)(?: not|n't)?{_ADVERBS} (?:unable to|able to|capable of|incapable of|"
    rf"(?:in a position|qualified|competent|smart enough|knowledgeable enough) to))"
)
_NEGATED: Final = rf"\b(?:i|we){_UNABLE}{_ADVERBS} "
_SELF_NEGATED: Final = rf"\bi{_UNABLE}{_ADVERBS} "  # "we cannot divide by zero" is true of everybody

# "who you mean" asks back; "your name" nobody told it; "of any" reports that there is none.
_KNOWN: Final = (
    r"(?!of any\b|(?:what|how|where) to (?:say|begin|thank)\b|you\b|your\b|(?:who|where|how old|when) you\b|"
    r"(?:what|which|who)(?: [\w-]+){0,3} you(?:'re| are)? (?:mean|want|need|refer|talk|ask|like))"
)
_LEARNED: Final = (
    r"(?:(?:learn(?:ed|t)?|taught|trained|studied)\b|(?:programmed|equipped|designed|built|instructed) (?:to|for|"
    r"with)\b)"
)

UNABLE: Final = re.compile(
    rf"\b(?:i|we){_ADVERBS} (?:do not|don't|dont|did not|didn't|no longer|would not|wouldn't){_ADVERBS} (?:know|"
    rf"recall|remember)\b(?: (?!how to find){_KNOWN}|$|[^\w ])"
    rf"|\b(?:i|we){_ADVERBS} (?:do not|don't|dont|did not|didn't){_ADVERBS} have (?:(?:an?|any|the|enough|sufficient|"
    rf"all|much|specific|detailed|reliable|adequate|necessary|required|relevant|such|prior|that|this|good|clear|"
    rf"complete|direct|definite|definitive|correct) )*{_LACKED}"
    rf"|\b(?:i|we){_ADVERBS}(?:'ve| have| had){_ADVERBS} (?:absolutely )?(?:no|not the|neither the|"
    rf"little) (?:\w+ )?{_LACKED}"
    rf"|\b(?:i|we){_ADVERBS} lack (?:(?:an?|any|the|enough|sufficient|necessary|required|specific) )*{_LACKED}"
    r"|^(?:i )?(?:dunno|idk)\b|^(?:absolutely )?no (?:idea|clue)\b|^(?:do not|don't) know\b|^i wish i knew\b|"
    r"^beats me\b"
    rf"|\b(?:i|we){_ADVERBS} (?:do not|don't) (?:think|believe) (?:that )?(?:i|we) (?:can (?:answer|solve|do)|know|"
    rf"am able)\b"
    rf"|\b(?:i|we){_ADVERBS} (?:do not|don't) (?:\w+ )?understand (?:how|the (?:topic|concept)|{_SUMS})"
    r"|\b(?:i'm|i am|we're|we are)(?: \w+)? (?:(?:not (?:familiar|acquainted)|unfamiliar) with|unaware of|"
    r"not aware of (?!any)|not knowledgeable|not an expert|no expert|clueless|stumped|at a loss|out of my depth|"
    r"ignorant|(?:not|no)(?: \w+)? (?:good|great|skilled|proficient) (?:at|with|in)\b)"
    r"|\b(?:beyond|outside|above|exceeds?) (?:(?:of|the scope of|the limits? of|"
    r"the range of) )?my (?:\w+ )?(?:abilit\w+|capabilit\w+|knowledge|expertise|training|skills?|understanding|scope|"
    r"competence|reach|powers?|pay grade|area|limits?|means)\b|\bbeyond (?:me|what i (?:can|know|learn\w*|was))\b|"
    r"\bover my head\b"
    r"|\bmy (?:\w+ ){0,2}(?:knowledge|training(?: data)?|abilities|skills)\b(?: \w+){0,3}? (?:(?:do(?:es)?|did|is|"
    r"are)(?: not|n't) (?:include|cover|extend|contain|reach|go|sufficient|enough|good)|"
    r"(?:is|are) (?:too )?(?:limited|insufficient))"
    rf"|\b(?:i|we)(?:'ve|'m|'re| have| had| was| were| am| are| did)?(?: not| never|n't){_ADVERBS} {_LEARNED}"
    r"|\b(?:nobody|no one)(?: has)?(?: ever)? taught me\b"
    r"|\b(?:was|were|is|are|has|have)(?: not|n't| never)(?: been)? (?:taught to me|(?:a )?part of (?:my|what i)|"
    r"in my training|(?:something|a skill|a topic|a subject) i)\b"
    r"|\bnot (?:something|a skill|a topic|a subject) (?:that )?i(?:'ve| have)?(?: ever)? (?:know|learn\w*|can do|"
    r"was)\b"
    rf"|{_SELF_NEGATED}{_DO}",
    re.IGNORECASE,
)
"""Says of the answerer that it lacks the knowledge or the skill."""

_FROM: Final = r"(?=.*\b(?:for me|without|from|with|based on|given|as stated)\b)"
OPEN: Final = re.compile(
    rf"{_NEGATED}{_TELL}|^(?:unable to|cannot|can't|could not) {_TELL}"
    r"|^(?:insufficient|not enough) (?:information|data|context|evidence)\b"
    r"|\b(?:do|does|did)(?: not|n't) (?:contain|provide|give|include|have|offer) (?:enough|"
    r"sufficient) (?:information|data|context|evidence|details?)\b"
    r"|\b(?:it|this|that|which)(?:'s| is| was| would be| seems| remains)(?: \w+ly)? (?:not possible|impossible|"
    r"not feasible)"
    rf"(?: for (?:me|us))? to (?:(?:determine|tell|answer|say|know|identify|conclude)\b|"
    rf"(?:calculate|compute|solve)\b{_FROM})"
    r"|\b(?:there(?:'s| is| was)|we have|we are given|i have|i was given) (?:not enough|insufficient|"
    r"too little) (?:information|data|context|evidence|details?)\b"
    r"|\b(?:information|data|context|evidence|details?)\b(?: [\w-]+){0,5} (?:is|are) (?:not (?:enough|sufficient)|"
    r"insufficient)\b"
    r"|\b(?:can(?:not|'t| not)|could(?: not|n't)) be (?:(?:determined|answered|known|inferred|"
    rf"deduced)\b|(?:calculated|computed|solved)\b{_FROM})"
    r"|\b(?:answer|result|value|total|number|amount)\b(?: [\w-]+){0,6} (?:can(?:not|'t| not)|"
    r"could(?: not|n't)) be calculated"
    r"|\b(?:answer|result|solution|cause|reason|value|outcome)\b(?: [\w-]+){0,6} (?:is|are|"
    r"remains?)(?: \w+ly)? (?:unknown|not known|undetermined|indeterminate)\b(?! (?:at|until|before|in|when|"
    r"to (?!me\b|us\b)))|\bunknown to me\b",
    re.IGNORECASE,
)
"""Says that what was asked cannot be told, by the answerer or from what is given."""

UNSURE: Final = re.compile(
    rf"\b(?:i|we)(?:'m|'re| am| are){_ADVERBS} (?:not(?: \w+ly| really| quite| too| so| at all| 100%)* "
    r"(?:sure|certain|confident)|unsure|uncertain)\b(?! (?:what|which|who)(?: [\w-]+){0,3} you\b)"
    r"|^(?:really )?(?:not (?:\w+ly )?(?:sure|certain)|unsure|uncertain)\b"
    r"|\b(?:it|that|this)(?:'s| is) (?:\w+ )?(?:hard|difficult) (?:for me )?to (?:say|tell|know)\b"
    r"|\b(?:can(?:not|'t| not)) be (?:\w+ )?(?:sure|certain)\b"
    r"|\bi(?:'d| would)(?: only| just)? (?:have to guess|be guessing)\b",
    re.IGNORECASE,
)
"""Says that the answerer is not sure, which is a surrender only where nothing else is said."""

PROPOSED: Final = re.compile(
    r"\b(?:know|sure|certain|tell|say)(?: for (?:sure|certain))?(?: (?:if|whether|that)| (?=it\b|it's\b))(?P<what>.*)"
)
"""What an answer is not sure of, where it says it: "I am not sure that it is Paris"."""

OTHER_UNABLE: Final = re.compile(
    # German, Dutch
    r"\bwei(?:ß|ss) (?:ich )?(?:(?:es|das|die antwort|leider|wirklich|auch|darauf|keine) )*(?:nicht|antwort)\b"
    r"|\bkeine ahnung\b|\bkenne (?:die|keine) (?:antwort|lösung)\b|\b(?:nie|nicht)(?: \w+)? gelernt\b"
    r"|\bkann (?:ich )?(?:[\w,]+ ){0,6}nicht (?:beantworten|berechnen|bestimmen|sagen|lösen|ermitteln|feststellen|"
    r"ausrechnen|multiplizieren|wissen)\b|\bnicht gen(?:ug|ügend) informationen\b"
    r"|\blässt sich (?:\w+ ){0,4}nicht (?:bestimmen|sagen|ermitteln|feststellen|beantworten|berechnen)\b"
    r"|\bik weet (?:(?:het|dat|echt|helaas) )*niet\b|\bgeen idee\b|\b(?:nooit|niet)(?: \w+)? geleerd\b"
    r"|\bik kan (?:\w+ ){0,5}niet (?:beantwoorden|bepalen|berekenen|zeggen|oplossen)\b"
    # Spanish, French, Portuguese, Italian
    r"|\bno (?:lo )?sé\b|\bdesconozco\b|\bno tengo (?:ni idea|idea|suficiente|conocimiento|la respuesta|información)"
    r"|\bno (?:puedo|soy capaz de|sé cómo) (?:determinar|responder|calcular|resolver|saber|decir|contestar|"
    r"multiplicar)"
    r"|\b(?:no|nunca) (?:he aprendido|aprendí|me enseñaron)\b"
    r"|\bje (?:ne )?(?:le )?sais pas\b|\bj'ignore\b|\bje l'ignore\b|\baucune idée\b|\bje ne connais pas\b"
    r"|\bje ne (?:peux|puis|suis)(?: pas)?(?: en mesure de?| capable de?)? (?:d'|de )?(?:déterminer|répondre|"
    r"calculer|résoudre|dire|y répondre)|\bje n'ai (?:pas|jamais) (?:appris|assez|suffisamment|la réponse|"
    r"les connaissances)"
    r"|\bnão sei\b|\bdesconheço\b|\bnão (?:consigo|posso) (?:determinar|responder|calcular|resolver|dizer)"
    r"|\b(?:nunca|não) aprendi\b|\bnão tenho (?:ideia|informações|conhecimento|a resposta)"
    r"|\bnon (?:lo )?so\b|\bnon (?:posso|riesco a|sono in grado di) (?:determinare|rispondere|calcolare|risolvere|"
    r"dire)"
    r"|\bnon ho (?:mai )?(?:imparato|idea|abbastanza|la risposta)|\bnon conosco la risposta\b"
    # Russian, Polish, Turkish, Arabic, Hindi
    r"|\bне (?:знаю|умею)\b|\bпонятия не имею\b|\bнедостаточно (?:информации|данных)"
    r"|\bне могу (?:\w+ ){0,2}(?:определить|ответить|сказать|решить|посчитать|вычислить)"
    r"|\bне (?:учил\w*|изучал\w*|обучен\w*)\b"
    r"|\bnie wiem\b|\bnie (?:mogę|potrafię) (?:określić|odpowiedzieć|obliczyć|powiedzieć)|\bnie uczył[ea]m się\b"
    r"|\bbilmiyorum\b|\böğrenmedim\b|\b(?:cevaplayamam|hesaplayamam|cevap veremem)\b"
    r"|لا أعرف|لا أعلم|لا أستطيع (?:تحديد|الإجابة|حساب)|لم أتعلم"
    r"|नहीं पता|पता नहीं|नहीं जानत[ाी]|नहीं सीखा|(?:निर्धारित|हल|गणना) नहीं कर सकत[ाी]"
    # Chinese, Japanese, Korean
    r"|不知道|不清楚|我不[会會](?:做|算|乘|回答|[这這解])|(?:无法|無法|不能|没法)(?:确定|確定|回答|计算|計算|判断|"
    r"判斷|得知|解答)"
    r"|[没沒未](?:有)?[学學](?:过|過|习|習|会|會)|从未学|信息不足|資訊不足|超出(?:了)?我的(?:能力|知识|知識)"
    r"|[わ分]か(?:りません|らない)|知りません|存じません|(?:判断|回答|計算|特定|お答え)(?:する)?(?:ことが|ことは|"
    r"は)?(?:でき|出来)(?:ません|ない)"
    r"|(?:習って|学んで|学習して|教わって)い?(?:ません|ない)|習ったことが|学んだことが|情報が(?:不足|足り)"
    r"|모르겠|모릅니다|몰라요|알 수 없|알지 못|배운 적이? ?없|배우지 (?:않|못)|(?:대답|답변|계산|판단|답)할 수 없|"
    r"정보가 부족",
    re.IGNORECASE,
)
"""`UNABLE` and `OPEN` in the other languages of `router/lexicon.py` and a few more."""
OTHER_UNSURE: Final = re.compile(
    r"\bbin (?:ich )?(?:mir )?(?:(?:da|dabei|leider|ganz) )*(?:nicht (?:\w+ )?sicher|unsicher)\b|\bniet zeker\b"
    r"|\bno estoy (?:\w+ )?segur[oa]\b|\bje ne suis pas (?:\w+ )?(?:sûre?|certaine?)\b|"
    r"\bnão (?:tenho certeza|estou cert[oa])\b"
    r"|\bnon (?:ne )?sono (?:\w+ )?sicur[oa]\b|\bне уверен\w*|\bnie jestem pew(?:ien|na)\b|\bemin değilim\b|لست متأكد"
    r"|निश्चित नहीं|不(?:太)?[确確]定|自信が|確信が|확실하지 않|확신할 수 없",
    re.IGNORECASE,
)

MANNERS: Final = re.compile(
    r"(?:(?:and|but|so|or|however|then|also|though|if so|instead|still|perhaps|maybe|thus|therefore|otherwise|"
    r"for now) )*(?:(?:(?:i'm|i am|we are|we're)(?: \w+)? )?(?:sorry|afraid)(?: (?:about|for|to say|that)\b.*)?$"
    r"|(?:my )?apolog(?:y|ies|i[sz]e)\b.*|i apologi[sz]e\b.*|unfortunately$|regrettably$|sadly$|excuse me$|"
    r"forgive me$"
    r"|(?:well|hmm+|oh|ok|okay|ah|no|yes|honestly|frankly|to be honest|truthfully|in short|thanks?|thank you\b.*)$"
    r"|(?:final |short )?(?:answer|result|solution|response|reply|explanation|reason|note|conclusion|a|q)$"
    r"|as an? (?:\w+[ -]){0,5}(?:ai|llm|model|assistant|bot|chatbot|program)\b.*"
    r"|i(?:'m| am)(?: just| only| merely| still| but)? an? (?:[\w-]+ ){0,5}(?:ai|llm|model|assistant|bot|chatbot|"
    r"program)\b.*"
    r"|i know only\b.*|i (?:can )?only (?:know|learned|learnt|can|add|understand|was)\b.*|"
    r"i (?:was|am) only (?:taught|trained|able)\b.*"
    r"|my (?:knowledge|training|abilit\w+|skills?)\b.*"
    r"|(?:that|this|it)(?: is|'s) (?:(?:an?|quite|very|too|such|really|rather) )*(?:\w+ )?(?:hard|difficult|tough|"
    r"tricky|complex|complicated|good|great|interesting|challenging)(?: (?:question|problem|one|topic|task|for me))*$"
    r"|(?:i |we )?(?:can(?:not|'t)|could(?: not|n't)|am (?:unable|not able) to|'m (?:unable|not able) to|"
    r"will not be able to|won't be able to|would not be able to)(?: \w+)? (?:help|assist|"
    r"be of (?:help|assistance))\b.*"
    r"|(?:an?|the|some|another|any|your|our)(?: [\w-]+){0,4}? (?:model|assistant|expert|specialist|person|human|"
    r"professional|colleague|teacher|tutor|calculator)\b.{0,60}?\b(?:(?:may|might|could|can|would|should|"
    r"will)(?: \w+)? (?:know|help|be able|answer|solve|do|tell|assist|handle|have)|"
    r"(?:may|might|could|can|would|should|will)$|knows?)\b.*"
    r"|(?:some(?:one|body)|anyone) (?:else|who)\b.*"
    r"|(?:please )?(?:try |consider |do )?(?:ask(?:ing)?|consult(?:ing)?|contact(?:ing)?|refer(?:ring)? to|"
    r"check(?:ing)? with|reach(?:ing)? out|rephras\w+|us(?:e|ing) an?(?: \w+)? (?:calculator|model|assistant)|"
    r"look(?:ing)? (?:it|this|that) up)\b.*"
    r"|(?:you|it|i(?:'d| would)? (?:suggest|recommend|advise)|we (?:suggest|recommend))\b(?: [\w']+){0,5}? (?:ask|"
    r"asking|consult|consulting|contact|contacting|refer|search(?:ing)? (?:online|the (?:web|internet))|calculator|"
    r"larger|bigger|another model|look it up)\b.*"
    r"|(?:please|kindly|could you|can you|would you|you (?:can|could|may|need to))(?: \w+){0,3}? (?:provid\w+|"
    r"shar\w+|giv\w+|send\w*|past(?:e|ing)|clarif\w+|specif\w+|rephras\w+|tell me|let me know|elaborate)\b.*"
    r"|if you(?: \w+)? (?:provide|share|give|send|paste|tell me|clarify|want|wish|"
    r"(?:have|need) (?:more|any|other|further|additional))\b.*"
    r"|let me know\b.*|feel free\b.*|i(?:'d| would| will|'ll)? need\b.*|(?:more|additional|further) (?:information|"
    r"context|details?|data|logs|input)(?: (?:is|are|would|about|to)\b.*|$)|"
    r"with (?:more|additional|further) (?:information|context|details?|data|logs|input)\b.*|"
    r"(?:is there|do you|would you like|how (?:else )?can i|what else)\b.*|(?:i )?hope\b.*|good luck$|hello\b.*|"
    r"hi\b.*"
    # other languages
    r"|(?:es )?tut mir leid\b.*|entschuldigung\b.*|leider$|bitte (?:frag|wende|gib|geben|teil|versuch|stell)\w*.*|"
    r"ein größeres modell\b.*|lo siento\b.*|perdón$|disculp\w+$|lamentablemente$|"
    r"por favor (?:proporcion|pregunt|consult|compart|intent)\w*.*|un modelo más grande\b.*|"
    r"(?:je suis )?désolée?\b.*|malheureusement$|veuillez (?:consulter|demander|fournir|préciser|contacter|poser|"
    r"reformuler)\b.*|un modèle plus grand\b.*|desculpe\w*\b.*|sinto muito$|infelizmente$|mi dispiace$|purtroppo$|"
    r"scus\w+$|het spijt me$|helaas$|извините$|простите$|к сожалению$|przepraszam$|niestety$|üzgünüm$|maalesef$|"
    r"عذرا$|آسف$|क्षमा करें$|माफ़ कीजिए$"
    r"|(?:非常|很|真的)?抱歉$|(?:对|對)不起$|不好意思$|[请請](?:提供|咨询|諮詢|询问|詢問|联系|聯繫|尝试|換|换|问|"
    r"問).*|(?:大変)?申し訳(?:ありません|ございません)が?$|すみませんが?$|ごめんなさい$|(?:より)?大きなモデル.*|"
    r"죄송(?:합니다|하지만)만?$|미안합니다만?$)"
)
"""What is said around a disclaimer and answers nothing: regrets, advice to ask elsewhere, what would be needed."""
