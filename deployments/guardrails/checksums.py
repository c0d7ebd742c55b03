"""Check digits of numbers that name people and accounts. Pure; every function takes text without separators."""

from typing import Final

_IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
_SPANISH: Final = "TRWAGMYFPDXBNJZSQVHLCKE"
_FISCAL_ODD: Final = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def luhn(digits: str) -> bool:
    """Whether the last digit is Luhn's check of the others."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """A payment card: as many digits as its issuer gives, not all alike, with Luhn's check digit."""
    lengths = {"34": 15, "37": 15, "30": 14, "36": 14, "38": 14}
    known = lengths.get(digits[:2], 16) == len(digits) or (len(digits) == 19 and digits.startswith("62"))
    return known and digits[0] in "23456" and len(set(digits)) > 1 and luhn(digits)


def is_iban(text: str) -> bool:
    """An IBAN: the length of its country, and the remainder 1 of ISO 7064 MOD 97-10."""
    if len(text) != _IBAN_LENGTHS.get(text[:2]):
        return False
    moved = text[4:] + text[:4]
    return int("".join(str(int(each, 36)) for each in moved)) % 97 == 1


def is_us_ssn(digits: str) -> bool:
    """Nine digits that the Social Security Administration gives out; there is no check digit."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_de_tax_id(digits: str) -> bool:
    """A German tax id: eleven digits, one of the first ten twice or three times, ISO 7064 MOD 11,10."""
    if len(digits) != 11 or digits[0] == "0":
        return False
    repeats = sorted(digits[:10].count(each) for each in set(digits[:10]))
    if repeats[-1] not in (2, 3) or repeats[-2] != 1:
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def is_fr_nir(digits: str) -> bool:
    """A French social security number of fifteen digits: sex, year, month, place, order, key of MOD 97."""
    if len(digits) != 15 or digits[0] not in "12" or not 1 <= int(digits[3:5]) <= 42:
        return False
    return 97 - int(digits[:13]) % 97 == int(digits[13:])


def is_es_dni(text: str) -> bool:
    """A Spanish DNI (eight digits, a letter) or NIE (X, Y or Z, seven digits, a letter)."""
    digits = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return digits.isdigit() and _SPANISH[int(digits) % 23] == text[-1]


def is_it_fiscal_code(text: str) -> bool:
    """An Italian fiscal code of sixteen characters, with its check letter."""
    total = 0
    for place, each in enumerate(text[:15]):
        value = int(each) if each.isdigit() else ord(each) - ord("A")
        total += value if place % 2 else _FISCAL_ODD[value]
    return chr(ord("A") + total % 26) == text[15]


def is_br_cpf(digits: str) -> bool:
    """A Brazilian CPF: eleven digits, not all alike, with two check digits."""
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for size in (9, 10):
        total = sum(int(digit) * (size + 1 - place) for place, digit in enumerate(digits[:size]))
        if total * 10 % 11 % 10 != int(digits[size]):
            return False
    return True
